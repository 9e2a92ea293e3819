"""OAuth 2.0's token endpoints (RFC 6749 section 5), as Google, Microsoft and the metadata services answer."""

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from regcachd.interfaces import AuthFailed, Fetched, IWeb
from regcachd.leases import Lease

FORM = "application/x-www-form-urlencoded"
_HOUR = 3600.0
_DAY = 86400.0
_CODE = re.compile(r"[a-zA-Z0-9_.-]{1,60}", re.ASCII)
_AADSTS = re.compile(r"AADSTS[0-9]{4,8}", re.ASCII)
_TOKEN = re.compile(r"[!-~]+", re.ASCII)


async def post_form(web: IWeb, url: str, form: Mapping[str, str], *, local: bool = False) -> Fetched:
    """POST a form. Raises AuthFailed."""
    headers = {"content-type": FORM, "accept": "application/json"}
    return await web.fetch("POST", url, headers, urlencode(form).encode(), local)


def read_token(
    answer: Fetched, who: str, advice: str, *, name: str = "access_token", life: float = _HOUR
) -> Lease[str]:
    """
    The token in an answer, and its life: `life` where `expires_in` is missing.

    `who` answered, and what to do when it turned the credential down is `advice`. Raises AuthFailed, with codes
    of the answer only: its prose may repeat what was sent.
    """
    found = _object(answer.body)
    if answer.status != 200:
        refused = answer.status in (400, 401, 403, 404)
        what = f"{who} answers {answer.status}{_why(found)}"
        raise AuthFailed(f"{what}: {advice if refused else 'try again later'}", refused=refused)
    token = found.get(name)
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise AuthFailed(f"{who} answers 200, but with no {name}: is that its address?")
    return Lease(token, _seconds(found.get("expires_in"), life))


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _why(found: Mapping[str, Any]) -> str:
    """RFC 6749's `error`, and the number by which Microsoft's explanations are found."""
    code, prose = found.get("error"), found.get("error_description")
    words = [code] if isinstance(code, str) and _CODE.fullmatch(code) else []
    words += _AADSTS.findall(prose)[:1] if isinstance(prose, str) else []
    return f" ({', '.join(words)})" if words else ""


def _seconds(given: object, default: float) -> float:
    """`expires_in`, which Azure's metadata service writes as a text; a day at most."""
    try:
        seconds = float(given)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return default
    return min(seconds, _DAY) if seconds > 0 else default
