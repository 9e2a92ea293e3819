"""A registry to test against, for this package and for authors of plugins.

`FakeRegistry` is an OCI registry in the test's own process, on a real loopback socket, plain or TLS.
It is given content, users and faults, and tells which requests it got::

    registry = FakeRegistry(reactor, auth="token", users={"alice": "secret"})
    image = registry.add_image("team/app", "1", [b"layer one", b"layer two"])
    registry.private("team/app", {"alice"})
    registry.fault(image.layers[0], CutAfter(4), times=1)
    await registry.start()
    ...
    assert registry.requests.count("GET", "/blobs/") == 3
    await registry.stop()

``python -m regcachd.testing`` runs one as a process of its own, for benchmarks.

The modules: `message` (requests, replies, bodies), `content`, `protocol` (request to reply) and `access` are
without I/O, as is `faults`; `exchange` obeys a fault plan on a connection, `listener` owns the connections,
`certificates` makes the TLS identity, `registry` joins them.
"""

from regcachd.testing.certificates import Certificate
from regcachd.testing.content import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Image,
)
from regcachd.testing.faults import (
    CloseAtAccept,
    CutAfter,
    ExtraHeaders,
    Fault,
    GarbageChunks,
    GarbageResponse,
    IgnoreRange,
    NoContentLength,
    NoDigestHeader,
    RedirectTo,
    Rule,
    StallAfter,
    StallBeforeHeaders,
    Status,
    Throttle,
    WrongBytes,
    WrongDigestHeader,
    WrongLength,
)
from regcachd.testing.message import Request, RequestLog
from regcachd.testing.registry import FakeRegistry, RegistryStoppedError

__all__ = [
    "DOCKER_LIST",
    "DOCKER_MANIFEST",
    "OCI_CONFIG",
    "OCI_INDEX",
    "OCI_LAYER",
    "OCI_MANIFEST",
    "Certificate",
    "CloseAtAccept",
    "CutAfter",
    "ExtraHeaders",
    "FakeRegistry",
    "Fault",
    "GarbageChunks",
    "GarbageResponse",
    "IgnoreRange",
    "Image",
    "NoContentLength",
    "NoDigestHeader",
    "RedirectTo",
    "RegistryStoppedError",
    "Request",
    "RequestLog",
    "Rule",
    "StallAfter",
    "StallBeforeHeaders",
    "Status",
    "Throttle",
    "WrongBytes",
    "WrongDigestHeader",
    "WrongLength",
]
