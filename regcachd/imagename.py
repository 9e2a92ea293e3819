"""Image names as people write them: `nginx`, `library/nginx:1.25`, `quay.io/org/img@sha256:...`.

Pure. The rules are those of docker's command line, which podman, skopeo and containerd's tools follow: the first
component is a registry's host if it has a dot or a colon or is `localhost`; without a tag, `latest` is meant; with a
tag and a digest, the digest is.
"""

from __future__ import annotations

from attrs import frozen

from regcachd.reference import InvalidReference, Reference, Repository, Tag, Target, parse_target

LATEST = Tag("latest")
OFFICIAL = "library"
"""Where Docker Hub keeps the images whose names have one component."""


@frozen
class ImageName:
    """An image's name: `host` is that of a registry, or None where the name does not say."""

    host: str | None
    name: str
    target: Target

    @classmethod
    def parse(cls, text: str) -> ImageName:
        """Read a name, with or without `docker://` in front. Raises InvalidReference."""
        rest = text.removeprefix("docker://")
        first, slash, behind = rest.partition("/")
        host = None
        if slash and (set(".:") & set(first) or first == "localhost"):
            host, rest = first.lower(), behind
        rest, at, digest = rest.partition("@")
        name, colon, tag = rest.partition(":")
        if at and ":" not in digest:
            raise InvalidReference("behind the @ of an image's name comes a digest, such as sha256:...")
        target: Target = Tag.parse(tag) if colon else LATEST
        if at:
            target = parse_target(digest)
        return cls(host, Repository.parse("", name).name, target)

    def within(self, registry: str, *, has_official: bool) -> Reference:
        """The manifest meant, in a registry of this name; with `has_official`, `nginx` is `library/nginx`."""
        name = f"{OFFICIAL}/{self.name}" if has_official and "/" not in self.name else self.name
        return Reference(Repository(registry, name), self.target)
