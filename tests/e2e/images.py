"""Images made on the spot, written as an OCI image layout (OCI image spec, image-layout.md)."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import tarfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Protocol

from attrs import define, field, frozen

MIB = 1024 * 1024
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"


@frozen
class Blob:
    """
    A file of the layout's blobs/sha256: its lowercase hexadecimal sha256, its size in bytes, its media
    type.
    """

    hex: str
    size: int
    media_type: str

    @property
    def digest(self) -> str:
        return f"sha256:{self.hex}"

    def descriptor(self) -> dict[str, str | int]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


@frozen
class Image:
    """An image in the layout directory `layout`, under the tag `tag`, pushed as `repository`."""

    layout: Path
    repository: str
    tag: str
    manifest: Blob
    config: Blob
    layers: tuple[Blob, ...]
    is_named_by_digest: bool = False

    @property
    def blobs(self) -> tuple[Blob, ...]:
        """What a client fetches from /blobs/: the configuration and the layers."""
        return (self.config, *self.layers)

    @property
    def largest(self) -> Blob:
        return max(self.layers, key=lambda layer: layer.size)

    @property
    def reference(self) -> str:
        """How clients name it in a registry."""
        name = f"@{self.manifest.digest}" if self.is_named_by_digest else f":{self.tag}"
        return f"{self.repository}{name}"

    def content(self, blob: Blob) -> bytes:
        return (self.layout / "blobs/sha256" / blob.hex).read_bytes()


def make_image(
    layout: Path, repository: str, tag: str, layer_sizes: Sequence[int], base: Image | None = None
) -> Image:
    """
    Write an image whose layers hold one file of random bytes each; `layer_sizes` are those files' sizes
    in bytes. The layers of `base` come before them.

    The layers are gzip without compression, so that no client sees a reason to pack them again on a push,
    which would change their digests.
    """
    (layout / "blobs/sha256").mkdir(parents=True)
    (layout / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
    made = [] if base is None else _copy_layers(base, layout)
    made += [_write_layer(layout, f"layer-{number}", size) for number, size in enumerate(layer_sizes)]
    layers = tuple(layer for layer, _ in made)
    config = _write_json(
        layout,
        CONFIG_TYPE,
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["/bin/true"]},
            "rootfs": {"type": "layers", "diff_ids": [diff_id for _, diff_id in made]},
        },
    )
    manifest = _write_json(
        layout,
        MANIFEST_TYPE,
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": config.descriptor(),
            "layers": [layer.descriptor() for layer in layers],
        },
    )
    tagged = {**manifest.descriptor(), "annotations": {"org.opencontainers.image.ref.name": tag}}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [tagged]}))
    return Image(layout, repository, tag, manifest, config, layers)


def _write_json(layout: Path, media_type: str, value: object) -> Blob:
    content = json.dumps(value).encode()
    blob = Blob(hashlib.sha256(content).hexdigest(), len(content), media_type)
    (layout / "blobs/sha256" / blob.hex).write_bytes(content)
    return blob


def _copy_layers(image: Image, layout: Path) -> list[tuple[Blob, str]]:
    """Put another image's layers into a layout; gives their blobs and diff IDs."""
    for layer in image.layers:
        (layout / "blobs/sha256" / layer.hex).write_bytes(image.content(layer))
    diff_ids = json.loads(image.content(image.config))["rootfs"]["diff_ids"]
    return list(zip(image.layers, diff_ids, strict=True))


def _write_layer(layout: Path, name: str, size: int) -> tuple[Blob, str]:
    """Write one layer; gives its blob and its diff ID, the digest of the tar archive inside."""
    unfinished = layout / "unfinished"
    with unfinished.open("wb") as file:
        packed = _Hashed(file)
        with gzip.GzipFile(filename="", mode="wb", compresslevel=0, fileobj=packed, mtime=0) as zipped:
            plain = _Hashed(zipped)
            with tarfile.open(fileobj=plain, mode="w|") as archive:  # type: ignore[call-overload]
                entry = tarfile.TarInfo(f"{name}/data")
                entry.size = size
                archive.addfile(entry, _Random(size))
    blob = Blob(packed.sha256.hexdigest(), packed.size, LAYER_TYPE)
    unfinished.rename(layout / "blobs/sha256" / blob.hex)
    return blob, f"sha256:{plain.sha256.hexdigest()}"


class _Writable(Protocol):
    def write(self, data: bytes, /) -> int: ...
    def flush(self) -> None: ...


@define
class _Hashed:
    """A file to write to that knows the digest and the length of what went through it."""

    file: _Writable
    size: int = 0
    sha256: hashlib._Hash = field(factory=hashlib.sha256)

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.size += len(data)
        self.file.write(data)
        return len(data)

    def flush(self) -> None:
        self.file.flush()


class _Random(BytesIO):
    """A file of `size` random bytes, made as they are read."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.left = size

    def read(self, count: int | None = -1, /) -> bytes:
        wanted = self.left if count is None or count < 0 else min(count, self.left)
        self.left -= wanted
        return os.urandom(wanted)
