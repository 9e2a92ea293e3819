"""What a registry holds: blobs, manifests and tags per repository, and the means to make them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from regcachd.reference import Digest
from regcachd.testing.message import Body

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"


@frozen
class Image:
    """An image put into a registry: the manifest's digest and bytes, and the digests it names."""

    manifest: Digest
    data: bytes
    config: Digest
    layers: tuple[Digest, ...]


@frozen
class Manifest:
    """A manifest or index, byte for byte, with the media type it was given."""

    digest: Digest
    data: bytes
    media_type: str

    def descriptor(self) -> dict[str, Any]:
        """How an index or a referrers list names this manifest (OCI image specification, "Descriptors")."""
        described = {"mediaType": self.media_type, "digest": str(self.digest), "size": len(self.data)}
        parsed = _parse(self.data)
        artifact = parsed.get("artifactType") or parsed.get("config", {}).get("mediaType")
        extra = {"artifactType": artifact, "annotations": parsed.get("annotations")}
        return described | {key: value for key, value in extra.items() if value}

    @property
    def subject(self) -> str | None:
        """The digest this manifest refers to, if any."""
        found = _parse(self.data).get("subject", {}).get("digest")
        return found if isinstance(found, str) else None


def _parse(data: bytes) -> dict[str, Any]:
    """The manifest's JSON object; an empty one for anything else, which a registry may hold as well."""
    try:
        parsed = json.loads(data)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


class Content:
    """Blobs, manifests and tags, by repository name."""

    def __init__(self) -> None:
        self.blobs: dict[str, dict[Digest, Body]] = {}
        self.manifests: dict[str, dict[Digest, Manifest]] = {}
        self.tags: dict[str, dict[str, list[Digest]]] = {}
        """A tag has one manifest, or several of different media types, the preferred one first."""

    @property
    def repositories(self) -> set[str]:
        """The names of all repositories with something in them."""
        return {*self.blobs, *self.manifests}

    def add_blob(self, repository: str, data: bytes | Path) -> Digest:
        """Put a blob into a repository: bytes, or a file that stays as it is while the registry runs."""
        if isinstance(data, Path):
            with data.open("rb") as file:
                digest = Digest("sha256", hashlib.file_digest(file, "sha256").hexdigest())
        else:
            digest = Digest.of(data)
        self.blobs.setdefault(repository, {})[digest] = Body.of(data)
        return digest

    def add_manifest(
        self,
        repository: str,
        tag: str | None,
        data: bytes,
        media_type: str = OCI_MANIFEST,
        *,
        also: bool = False,
    ) -> Digest:
        """Put a manifest, or any bytes that pretend to be one, into a repository.

        A ``tag`` moves to it; with ``also`` the tag keeps what it had, and the request's Accept header
        decides between them.
        """
        manifest = Manifest(Digest.of(data), data, media_type)
        self.manifests.setdefault(repository, {})[manifest.digest] = manifest
        if tag is not None:
            tags = self.tags.setdefault(repository, {})
            tags[tag] = [*(tags.get(tag, []) if also else []), manifest.digest]
        return manifest.digest

    def add_image(
        self,
        repository: str,
        tag: str | None,
        layers: Sequence[bytes | Path],
        *,
        architecture: str = "amd64",
        extra: Mapping[str, object] | None = None,
    ) -> Image:
        """Put an OCI image with its config and layers into a repository.

        The layers count as uncompressed tar archives; they need to be such only for a client that unpacks
        them. ``extra`` is added to the manifest: annotations, subject, artifactType.
        """
        digests = [self.add_blob(repository, layer) for layer in layers]
        config = json.dumps(
            {
                "architecture": architecture,
                "os": "linux",
                "config": {"Cmd": ["/bin/true"]},
                "rootfs": {"type": "layers", "diff_ids": [str(digest) for digest in digests]},
            }
        ).encode()
        config_digest = self.add_blob(repository, config)
        blobs = self.blobs[repository]
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": OCI_CONFIG, "digest": str(config_digest), "size": len(config)},
            "layers": [
                {"mediaType": OCI_LAYER, "digest": str(digest), "size": blobs[digest].size}
                for digest in digests
            ],
            **(extra or {}),
        }
        data = json.dumps(manifest, indent=1).encode()
        return Image(self.add_manifest(repository, tag, data), data, config_digest, tuple(digests))

    def add_index(self, repository: str, tag: str | None, images: Mapping[str, Image]) -> Digest:
        """Put an OCI index over images of this repository, keyed by architecture, into the repository."""
        manifests = self.manifests[repository]
        entries = [
            manifests[image.manifest].descriptor()
            | {"platform": {"os": "linux", "architecture": architecture}}
            for architecture, image in images.items()
        ]
        data = json.dumps(
            {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}, indent=1
        ).encode()
        return self.add_manifest(repository, tag, data, OCI_INDEX)

    def remove(self, repository: str, what: Digest | str) -> None:
        """Take a blob or manifest (by digest) or a tag (by name) out of a repository."""
        if isinstance(what, Digest):
            self.blobs.get(repository, {}).pop(what, None)
            self.manifests.get(repository, {}).pop(what, None)
        else:
            self.tags.get(repository, {}).pop(what, None)
