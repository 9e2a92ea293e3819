"""Recent manifests, in memory: small, verified, and asked for by every node of a job at the same moment."""

from collections import OrderedDict

from attrs import frozen

from .reference import Digest

MOST_BYTES = 16 * 1024 * 1024
"""Bytes of manifests kept by one process."""


@frozen
class Manifest:
    """A manifest's bytes, which have its digest, and the media type that upstream gave it."""

    media_type: str
    body: bytes


class RecentManifests:
    """Manifests by digest; those that were not used for the longest time are forgotten first."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._manifests: OrderedDict[Digest, Manifest] = OrderedDict()

    def get(self, digest: Digest) -> Manifest | None:
        """The manifest, if it is remembered."""
        manifest = self._manifests.get(digest)
        if manifest is not None:
            self._manifests.move_to_end(digest)
        return manifest

    def put(self, digest: Digest, manifest: Manifest) -> None:
        """Remember a manifest whose digest has been verified."""
        self._forget(digest)
        self._manifests[digest] = manifest
        self._bytes += len(manifest.body)
        while self._bytes > self._most_bytes:
            self._forget(next(iter(self._manifests)))

    def _forget(self, digest: Digest) -> None:
        manifest = self._manifests.pop(digest, None)
        if manifest is not None:
            self._bytes -= len(manifest.body)
