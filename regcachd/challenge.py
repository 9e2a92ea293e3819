"""WWW-Authenticate: what a registry asks a client to prove, and where (RFC 9110 section 11.6.1).

The header's grammar is ambiguous at its commas, which separate both challenges and the parameters of
one challenge. The rule that resolves it: a token followed by "=" is a parameter of the challenge
before it; any other token begins a challenge. Registries add liberties of their own
(unquoted URLs, missing parameters), all of which are read; what makes no sense is skipped, since
a client that gets a challenge wrong is told so by a 401 anyway. Nothing here raises.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from attrs import field, frozen

_LONGEST = 16 * 1024
"""Characters; a longer header value is ignored. Real ones stay under 1 KiB."""
_MOST = 32
"""Challenges in all, and parameters in each; the rest are ignored."""

_SEPARATORS = re.compile(r"[\s,]*")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)("?)', re.DOTALL)  # an unclosed one runs to the end
_UNQUOTED = re.compile(r'[^\s,"]*')  # far more than a token: realms are sent bare too
_EQUALS = re.compile(r"[ \t]*=[ \t]*")
_TOKEN68 = re.compile(r"[ \t]+[A-Za-z0-9._~+/-]+=*[ \t]*(?=,|\Z)")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


def _read_only(parameters: Mapping[str, str]) -> Mapping[str, str]:
    return MappingProxyType(dict(parameters))


@frozen
class Challenge:
    """One challenge: ``scheme`` and the parameters' names are lowercase, their values are as sent.

    Hashable; the scheme's credentials in token68 form, which no registry sends, are dropped.
    """

    scheme: str
    parameters: Mapping[str, str] = field(converter=_read_only, hash=False)


def parse_challenges(values: Iterable[str]) -> list[Challenge]:
    """All challenges of a response's WWW-Authenticate header values, in their order."""
    found: list[tuple[str, dict[str, str]]] = []
    for value in values:
        if len(value) <= _LONGEST:
            found += _challenges(value)
    return [Challenge(scheme, parameters) for scheme, parameters in found[:_MOST]]


def _challenges(text: str) -> list[tuple[str, dict[str, str]]]:
    """One value's challenges. Every turn of the loop consumes what it looked at, or all but one token of
    it, so the time is linear."""
    found: list[tuple[str, dict[str, str]]] = []
    at = _end(_SEPARATORS, text, 0)
    while at < len(text) and len(found) < _MOST:
        token = _TOKEN.match(text, at)
        if token is None:  # garbage; if quoted, then its commas separate nothing
            at = max(at + 1, _end(_QUOTED, text, at))
        elif equals := _EQUALS.match(text, token.end()):
            value, at = _value(text, equals.end())
            if value is not None and found and len(found[-1][1]) < _MOST:
                found[-1][1].setdefault(token[0].lower(), value)
        else:
            found.append((token[0].lower(), {}))
            at = _end(_TOKEN68, text, token.end())
        at = _end(_SEPARATORS, text, at)
    return found


def _value(text: str, at: int) -> tuple[str | None, int]:
    """The parameter value at ``at`` and where it ends; None if its closing quote is missing."""
    if quoted := _QUOTED.match(text, at):
        return (_ESCAPED.sub(r"\1", quoted[1]) if quoted[2] else None), quoted.end()
    end = _end(_UNQUOTED, text, at)
    return text[at:end], end


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return at if found is None else found.end()
