"""Verdicts: what a registry's answers mean for those who pull from it, as findings.

Pure: statuses, headers and documents go in. Header names are in lower case.
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from attrs import frozen

from regcachd.finding import Finding, failure, ok, printable, warning
from regcachd.reference import Digest, InvalidReference, Reference
from regcachd.units import roughly

Headers = Mapping[str, str]

DRIFT = 60.0
"""Seconds that two clocks may be apart before tokens and certificates suffer."""
NEARLY_OVER = 14 * 86400.0
"""Seconds before its end at which a certificate that is renewed in time has been renewed."""
FEW = 0.1
"""The fraction of a rate limit that is too little."""

INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
ACCEPT = ", ".join((*INDEX_TYPES, *MANIFEST_TYPES))

_DATE = "%a, %d %b %Y %H:%M:%S GMT"
"""RFC 9110 section 5.6.7."""
_LIMIT = re.compile(r"([0-9]{1,12})(?:;w=([0-9]{1,9}))?")


def ping(status: int, headers: Headers) -> Finding:
    """What GET /v2/ came to (OCI distribution specification, "Determining Support")."""
    step = "ping"
    if status == 200:
        return ok(step, "/v2/ answers 200: it is a registry, and asks nobody who they are")
    if status == 401:
        return ok(step, "/v2/ answers 401: it is a registry, and asks who is there")
    if status == 429:
        return failure(step, f"/v2/ answers 429: too many requests from here{_later(headers)}", "wait")
    if status in (301, 302, 303, 307, 308):
        return failure(
            step,
            f"/v2/ redirects (status {status}): this is not the registry itself",
            "set `upstream` to the address that it redirects to",
        )
    if status >= 500:
        return failure(step, f"/v2/ answers {status}: the registry has trouble of its own", "try again later")
    return failure(step, f"/v2/ answers {status}: whatever is there, it is no registry", "look at `upstream`")


def clock(headers: Headers, now: datetime) -> Finding | None:
    """How far this machine's clock is from that of the registry, if it says (RFC 9110 section 6.6.1)."""
    try:
        theirs = datetime.strptime(headers["date"], _DATE).replace(tzinfo=UTC)
    except (KeyError, ValueError):
        return None
    ahead = (now - theirs).total_seconds()
    if abs(ahead) <= DRIFT:
        return ok("clock", "this machine's clock and the registry's agree")
    return warning(
        "clock",
        f"this machine's clock is {roughly(abs(ahead))} {'ahead of' if ahead > 0 else 'behind'} the registry's",
        "look at time synchronisation (timedatectl): tokens and certificates end too early, or are not valid yet",
    )


def limits(headers: Headers) -> Finding | None:
    """What is left of a rate limit, as Docker Hub says it: `100;w=21600` is 100 in six hours."""
    whole = _LIMIT.match(headers.get("ratelimit-limit", ""))
    left = _LIMIT.match(headers.get("ratelimit-remaining", ""))
    if whole is None or left is None:
        return None
    window = f" in {roughly(float(whole[2]))}" if whole[2] else ""
    says = f"{int(left[1]):,} of {int(whole[1]):,} pulls{window} are left"
    if int(left[1]) >= FEW * int(whole[1]):
        return ok("limit", says)
    return warning("limit", says, "a credential of its own (username, password) raises the limit")


def manifest(status: int, headers: Headers, reference: Reference, *, is_own: bool) -> Finding:
    """What HEAD of a manifest came to, on regcachd's own credential or as anybody."""
    step = "manifest"
    if 200 <= status < 300:
        kind = headers.get("content-type", "").partition(";")[0].strip()
        what = "an index of several" if kind in INDEX_TYPES else "a manifest"
        digest = headers.get("docker-content-digest")
        if digest is None:
            return warning(
                step,
                f"{reference} is there, {what}, but HEAD does not say its digest",
                "nothing to do; regcachd fetches this registry's manifests to see whether tags have moved",
            )
        return ok(step, f"{reference} is there: {digest}, {what}")
    return _refused(step, status, headers, str(reference), is_own=is_own)


def layer(status: int, headers: Headers, name: str, location: str | None, *, is_own: bool) -> Finding:
    """What the first request for a layer came to; `location` is the host of a redirect."""
    if location is not None:
        return ok("layer", f"{name} is there, and comes from {location}")
    if 200 <= status < 300:
        return ok("layer", f"{name} is there, and comes from the registry itself")
    return _refused("layer", status, headers, name, is_own=is_own)


def download(status: int, headers: Headers, name: str) -> Finding:
    """What a request for the first byte of a layer came to, redirects followed."""
    step = "download"
    if status == 206:
        return ok(step, "its first byte has come, and parts can be had (Range): what breaks is resumed")
    if status == 200:
        return warning(
            step,
            "it comes, but not in parts (Range): what breaks begins again, over one connection",
            "look whether a proxy on the way takes the Range header out; some storage cannot do better",
        )
    return failure(
        step,
        f"{name} does not come: status {status}{_later(headers)}",
        "if the registry redirects to storage, look whether that is the storage's answer, or a proxy's",
    )


def sharing(is_shared: bool) -> Finding:
    """What a configured credential is good for."""
    if is_shared:
        return ok("share", "clients that bring no credential may read what this one can")
    return warning(
        "share",
        "the credential is used for nothing but this checkup: clients fetch with their own, or with none",
        "set `share = true` if every client may read what the credential can, or take the credential out",
    )


def clients(status: int, share: bool, has_credential: bool) -> Finding:
    """Who may have an image, given what HEAD of its manifest came to without a credential."""
    step = "clients"
    if 200 <= status < 300:
        return ok(step, "the image is public: every client may have it")
    if share and has_credential:
        return ok(step, "the image is private; with `share = true` every client may have it")
    if status == 429:
        return warning(step, "whether the image is public cannot be told now (status 429)")
    return ok(
        step,
        f"the image is not public (status {status}): clients need a credential of their own for it"
        + (", or `share = true` here" if has_credential else ""),
    )


def certificate(names: Sequence[str], issuer: str, end: datetime, now: datetime, trusted: str) -> Finding:
    """A certificate that has been accepted; `trusted` says because of what."""
    says = f"{shown_certificate(names, issuer, end)}, trusted {trusted}"
    left = (end - now).total_seconds()
    if left < NEARLY_OVER:
        return warning("tls", f"{says}; it ends in {roughly(left)}", "tell whoever runs the registry")
    return ok("tls", says)


def shown_certificate(names: Sequence[str], issuer: str, end: datetime) -> str:
    """A certificate in words."""
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"certificate for {shown or 'nobody'}, by {issuer or 'nobody'}, until {end:%Y-%m-%d}"


@frozen
class Contents:
    """What a manifest or index names: `child` of an index, `blob` of a manifest; None where there is none."""

    child: Digest | None = None
    blob: Digest | None = None


def contents(body: bytes) -> Contents:
    """The manifest to look at in an index, linux/amd64 before others, or the first layer in a manifest."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return Contents()
    if not isinstance(found, dict):
        return Contents()
    children = sorted(_descriptors(found.get("manifests")), key=_preference)
    layers = [each for each in _descriptors(found.get("layers")) if not each.get("urls")]
    blobs = [*layers, *_descriptors([found.get("config")])]
    return Contents(_first(children), _first(blobs))


def _descriptors(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _preference(descriptor: dict[str, Any]) -> int:
    platform = descriptor.get("platform")
    found = (platform.get("os"), platform.get("architecture")) if isinstance(platform, dict) else (None, None)
    return 0 if found == ("linux", "amd64") else 2 if "unknown" in found else 1


def _first(descriptors: Sequence[dict[str, Any]]) -> Digest | None:
    for each in descriptors:
        try:
            return Digest.parse(str(each.get("digest")))
        except InvalidReference:
            continue
    return None


def _refused(step: str, status: int, headers: Headers, name: str, *, is_own: bool) -> Finding:
    if status == 429:
        return failure(
            step,
            f"{name}: too many requests from here (status 429){_later(headers)}",
            "wait" if is_own else "wait, or give regcachd a credential of its own (username, password)",
        )
    if status in (401, 403):
        if is_own:
            return failure(
                step,
                f"{name}: the registry says no to the credential (status {status})",
                "look whether the name is right, and whether the credential may read this repository: registries "
                "seldom say which",
            )
        return warning(
            step,
            f"{name} is not public, or is not there (status {status})",
            "clients with a credential of their own may have it; to look further from here, give regcachd one",
        )
    if status == 404:
        return failure(step, f"{name} is not there (status 404)", "look whether name and tag are right")
    return failure(step, f"{name}: the registry answers {status}{_later(headers)}", "try again later")


def _later(headers: Headers) -> str:
    after = headers.get("retry-after")
    return "" if after is None else f"; it says to try again after: {printable(after[:40])}"
