"""Values as nginx takes them, as regcachd takes them: sizes, times, and the regular expressions of locations."""

import re

from regcachd.cli.predecessor import DEFAULTS

_NGINX_SIZE = re.compile(r"([0-9]{1,15})([kKmMgG]?)")
_NGINX_TIME = re.compile(r"(?:([0-9]{1,9})(ms|[smhdwMy]?))")
_SECONDS = {"ms": 0.001, "": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_SECONDS |= {"w": 7 * 86400, "M": 30 * 86400, "y": 365 * 86400}
_PIECE = re.compile(r"\.\*|\.\+|\\[.\-_/]|[A-Za-z0-9_/-]|\.")
_GLOBS = {".*": "*", ".+": "?*", ".": "?"}


def size_of(value: str) -> str | None:
    """A size ("32g": nginx's units are binary); None if it is none."""
    size = _NGINX_SIZE.fullmatch(value.strip())
    if size is None:
        return None
    return size[1] + {"": "B", "k": "KiB", "m": "MiB", "g": "GiB"}[size[2].lower()]


def duration_of(value: str) -> str | None:
    """A time of nginx ("10m", "1h 30m", "200 302 60d") as one of ours; None if it is none."""
    words = [word for word in value.split() if word != "any"]
    if len(words) > 1 and words[0].isdigit():
        words = words[-1:]
    written = "".join(words)
    parts = _NGINX_TIME.findall(written)
    if not parts or "".join(number + unit for number, unit in parts) != written:
        return None
    seconds = sum(int(number) * _SECONDS[unit] for number, unit in parts)
    for length, unit in ((86400, "d"), (3600, "h"), (60, "m"), (1, "s")):
        if seconds >= length and seconds % length == 0:
            return f"{int(seconds // length)}{unit}"
    return f"{round(seconds * 1000)}ms"


def globs_of(fragment: str) -> list[str] | None:
    """The patterns, REPOSITORY:TAG with *, that match what nginx matches with `^/v2/(.*)/manifests/FRAGMENT`.

    None for a regular expression that is more than literals, dots and alternatives.
    """
    if fragment == DEFAULTS["MANIFEST_CACHE_SECONDARY_REGEX"]:
        return ["*:*[0-9.]*[0-9.]*[0-9.]*"]
    body = fragment[1:-1] if fragment.startswith("(") and fragment.endswith(")") else fragment
    globs = []
    for alternative in body.split("|"):
        whole = alternative.endswith("$")
        rest = alternative.removesuffix("$")
        pieces = _PIECE.findall(rest)
        if "".join(pieces) != rest or (whole and body != fragment and not body.endswith("$")):
            return None
        glob = "".join(_GLOBS.get(piece, piece[-1]) for piece in pieces)
        globs.append("*:" + (glob if whole else f"{glob}*".replace("**", "*")))
    return globs
