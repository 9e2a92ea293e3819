"""Makes `twistd regcache` known to twistd."""

from twisted.application.service import ServiceMaker

regcache = ServiceMaker(  # type: ignore[no-untyped-call]
    "regcachd",
    "regcachd.tap",
    "A caching proxy for container registries: nodes pull through it, every layer is downloaded once.",
    "regcache",
)
