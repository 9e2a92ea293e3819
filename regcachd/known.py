"""Registries that need no more than their name: where they are, and which hosts clients ask for them.

`hosts` are names that clients CONNECT to besides the registry's name and its upstream. Hosts that only hand
out blobs are not among them: they are upstream's redirects, which regcachd follows itself.

`realm` is where clients are sent for tokens. Where its host is not the registry's own, it is intercepted for it
(token_hosts), so that a thousand nodes need one anonymous token. Not so a host that does more than that,
such as authn.nvidia.com, on which other programs rely that know nothing of our CA.

`blob_probe` is the request that proves that a client may read a blob: HEAD, or, where a registry answers a
blob's HEAD wrongly, a GET whose redirect is not followed.

Realm hosts are those to which a registry sends its clients for tokens, where that is not the registry itself. They
may be told a credential that is meant for the registry. (registry.redhat.io, ghcr.io, quay.io, gcr.io, registries of
AWS, Azure and IBM, and Harbor hand out their own tokens; registry.k8s.io and mcr.microsoft.com need none.)
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from attrs import frozen

BlobProbe = Literal["head", "get"]


@frozen
class KnownRegistry:
    """What is known of a registry; `upstream` is scheme://host[:port] without a slash at the end."""

    name: str
    upstream: str
    hosts: tuple[str, ...] = ()
    blob_probe: BlobProbe = "head"
    realm: str | None = None


KNOWN: Mapping[str, KnownRegistry] = MappingProxyType(
    {
        registry.name: registry
        for registry in (
            # dockerd, containerd, podman, CRI-O and enroot pull docker.io from registry-1.docker.io; what is
            # built on go-containerregistry (kaniko, crane, trivy) says index.docker.io for the same images.
            KnownRegistry(
                "docker.io",
                "https://registry-1.docker.io",
                ("registry-1.docker.io", "index.docker.io"),
                realm="https://auth.docker.io/token",
            ),
            KnownRegistry("quay.io", "https://quay.io", realm="https://quay.io/v2/auth"),
            KnownRegistry("ghcr.io", "https://ghcr.io", realm="https://ghcr.io/token"),
            KnownRegistry("gcr.io", "https://gcr.io", realm="https://gcr.io/v2/token"),
            KnownRegistry("registry.k8s.io", "https://registry.k8s.io"),
            KnownRegistry("k8s.gcr.io", "https://k8s.gcr.io"),
            KnownRegistry("nvcr.io", "https://nvcr.io", realm="https://nvcr.io/proxy_auth"),
            # Answers HEAD of a blob with 401 whoever asks.
            KnownRegistry(
                "public.ecr.aws",
                "https://public.ecr.aws",
                blob_probe="get",
                realm="https://public.ecr.aws/token/",
            ),
            KnownRegistry("mcr.microsoft.com", "https://mcr.microsoft.com"),
        )
    }
)

_REALM_HOSTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "https://registry-1.docker.io": ("auth.docker.io",),
        "https://nvcr.io": ("authn.nvidia.com",),
        "https://registry.gitlab.com": ("gitlab.com",),
    }
)
"""By upstream, so that a mirror that is called docker.io in the configuration is told nothing of Docker's."""


def realm_hosts(upstream: str) -> tuple[str, ...]:
    """The realm hosts of the registry at this upstream."""
    return _REALM_HOSTS.get(upstream, ())


def blob_probe(upstream: str) -> BlobProbe:
    """The probe for the registry at this upstream, by whatever name the configuration calls it."""
    return next((known.blob_probe for known in KNOWN.values() if known.upstream == upstream), "head")


def known_realm(upstream: str) -> str | None:
    """Where the registry at this upstream sends clients for tokens, as far as that is known beforehand."""
    return next((known.realm for known in KNOWN.values() if known.upstream == upstream), None)
