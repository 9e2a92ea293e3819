"""The OCI distribution specification's pull side, from request to reply, without I/O.

It shares no parser with the package that it is there to test.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import parse_qs, quote

from attrs import evolve

from regcachd.reference import Digest, InvalidReference
from regcachd.testing.content import Content, Manifest
from regcachd.testing.message import Body, Reply, Request

_NAME = r"(?P<name>[a-z0-9][a-z0-9._/-]*)"
_ROUTES = re.compile(
    rf"/v2/{_NAME}/(?P<kind>blobs|manifests|referrers|tags)/(?P<reference>[A-Za-z0-9_][A-Za-z0-9._+:-]*)"
)
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def repository_of(path: str) -> str | None:
    """The repository that a path names, if it names one."""
    found = _ROUTES.fullmatch(path)
    return found["name"] if found else None


def answer(content: Content, request: Request) -> Reply:
    """Answer a request under ``/v2/`` from this content; access is checked elsewhere."""
    if request.method not in ("GET", "HEAD"):
        return Reply.error(405, "UNSUPPORTED", "This registry is read-only.", {"Allow": "GET, HEAD"})
    if request.path in ("/v2", "/v2/"):
        return Reply.json(200, {}, {"Docker-Distribution-Api-Version": "registry/2.0"})
    found = _ROUTES.fullmatch(request.path)
    if found is None:
        return Reply.error(404, "UNSUPPORTED", f"There is nothing at {request.path}.")
    name, kind, reference = found["name"], found["kind"], found["reference"]
    if name not in content.repositories:
        return Reply.error(404, "NAME_UNKNOWN", f"There is no repository {name}.")
    if kind == "tags":
        return _tags(content, name, request)
    if kind == "referrers":
        return _referrers(content, name, reference, request)
    if kind == "manifests":
        return _manifest(content, name, reference, request)
    digest = _digest(reference)
    if digest is None:
        return Reply.error(400, "DIGEST_INVALID", f"{reference} is not a digest.")
    body = content.blobs.get(name, {}).get(digest)
    if body is None:
        return Reply.error(404, "BLOB_UNKNOWN", f"There is no blob {digest} in {name}.")
    return serve(body, request, {"Docker-Content-Digest": str(digest), "ETag": f'"{digest}"'})


def serve(body: Body, request: Request, headers: dict[str, str]) -> Reply:
    """Serve content that never changes: whole, in part (RFC 9110 section 14), or not at all (section 13)."""
    etag = headers.get("ETag")
    reply = Reply(
        200, {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **headers}, body
    )
    if etag is not None and etag in request.headers.get("if-none-match", ""):
        return evolve(reply, status=304, body=Body.of(b""))
    part = _RANGE.fullmatch(request.headers.get("range", ""))
    if part is None or not any(part.groups()) or request.headers.get("if-range", etag) != etag:
        return reply
    if part[1]:
        start, stop = int(part[1]), min(int(part[2]) + 1 if part[2] else body.size, body.size)
    else:
        start, stop = max(0, body.size - int(part[2])), body.size
    if start >= stop:
        return Reply.error(
            416, "SIZE_INVALID", "Range past the end.", {"Content-Range": f"bytes */{body.size}"}
        )
    partial = reply.with_headers({"Content-Range": f"bytes {start}-{stop - 1}/{body.size}"})
    return evolve(partial, status=206, body=body.part(start, stop))


def _digest(text: str) -> Digest | None:
    try:
        return Digest.parse(text)
    except InvalidReference:
        return None


def _manifest(content: Content, name: str, reference: str, request: Request) -> Reply:
    manifests = content.manifests.get(name, {})
    digest = _digest(reference)
    if digest is not None:
        manifest = manifests.get(digest)
    else:
        tagged = [
            manifests[each] for each in content.tags.get(name, {}).get(reference, []) if each in manifests
        ]
        manifest = accepted(tagged, request.headers.get("accept"))
    if manifest is None:
        return Reply.error(404, "MANIFEST_UNKNOWN", f"There is no acceptable manifest {reference} in {name}.")
    headers = {"Docker-Content-Digest": str(manifest.digest), "Content-Type": manifest.media_type}
    reply = serve(
        Body.of(manifest.data),
        evolve(request, headers={**request.headers, "range": ""}),
        {**headers, "ETag": f'"{manifest.digest}"'},
    )
    return reply.without_header("Accept-Ranges")


def accepted(manifests: Sequence[Manifest], accept: str | None) -> Manifest | None:
    """The first manifest of a media type that the Accept header names; the first of all if there is none."""
    ranges = [each.partition(";")[0].strip() for each in (accept or "*/*").split(",")]
    for manifest in manifests:
        if {"*/*", "application/*", manifest.media_type} & set(ranges):
            return manifest
    return None


def _tags(content: Content, name: str, request: Request) -> Reply:
    query = parse_qs(request.query)
    last = query.get("last", [""])[0]
    tags = [tag for tag in sorted(content.tags.get(name, {})) if tag > last]
    headers = {}
    if "n" in query:
        count = int(query["n"][0])
        if len(tags) > count:
            tags = tags[:count]
            last = quote(tags[-1]) if tags else ""
            headers["Link"] = f'</v2/{name}/tags/list?n={count}&last={last}>; rel="next"'
    return Reply.json(200, {"name": name, "tags": tags}, headers)


def _referrers(content: Content, name: str, subject: str, request: Request) -> Reply:
    found = [
        each.descriptor() for each in content.manifests.get(name, {}).values() if each.subject == subject
    ]
    headers = {"Content-Type": "application/vnd.oci.image.index.v1+json"}
    wanted = parse_qs(request.query).get("artifactType")
    if wanted:
        found = [each for each in found if each.get("artifactType") in wanted]
        headers["OCI-Filters-Applied"] = "artifactType"
    index = {"schemaVersion": 2, "mediaType": headers["Content-Type"], "manifests": found}
    return Reply.json(200, index, headers)
