"""The head of one request, read byte by byte if need be: sans-io and bounded.

The daemon's port takes CONNECT as well as ordinary requests, and what follows a CONNECT head is a
TLS ClientHello that OpenSSL must read from the kernel itself. So ``HeadParser.feed`` says how many of the
bytes it was shown belong to the head, never more, and the caller peeks first and takes these.

Rules (RFC 9112 sections 2 to 5, on the strict side wherever it allows a choice):

- One empty line before the request line is skipped (section 2.2).
- A line ends in CR LF. A bare LF is refused although section 2.2 would allow it: requests other than CONNECT
  are read a second time, by twisted.web, which ends lines at CR LF only, and two readers that see
  different lines in one head are how requests are smuggled. No client is known to send it.
- A method has at most 32 characters, so that what is not HTTP is noticed before its first line ends.
- A line that begins with white space (section 5.2), white space before a colon (section 5.1) and control
  characters anywhere are refused.
- The whole head, its empty lines included, has at most ``limit`` bytes; otherwise 431.

An error is tied to the first byte at which it can be told, and its message says nothing of the bytes behind,
so that it is the same however the bytes are cut into pieces. Every byte is looked at a fixed number of times.
"""

from __future__ import annotations

import ipaddress
import re

from attrs import define, field, frozen

from regcachd.errors import RegcachdError

_LONGEST_METHOD = 32
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]"
_METHOD = re.compile(_TOKEN + rb"*")
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb"+) ([\x21-\x7e\x80-\xff]+)(?: ([\x21-\x7e\x80-\xff]+))?")
_FIELD = re.compile(rb"(" + _TOKEN + rb"+):(.*)", re.DOTALL)
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")  # not HT, LF and CR: these depend on their place

_NOT_HTTP = {
    0x04: "a SOCKS request; use http:// for the proxy address",
    0x05: "a SOCKS request; use http:// for the proxy address",
    0x16: "a TLS ClientHello; use http:// for the proxy address",
}
"""Other protocols that people point at a proxy's port, by their first byte."""

_AUTHORITY = re.compile(
    r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9_.-]+))(?::(?P<port>[0-9]{1,5}))?"
)
_LABELS = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_LONGEST_HOST = 253


class HeadError(RegcachdError):
    """A request that cannot be read; ``status`` is the HTTP status to answer it with, 400 or 431."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@frozen
class Authority:
    """Whom a request is for: ``host`` is a lowercase name or an address without brackets."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str | bytes, default_port: int | None = None) -> Authority:
        """Read ``host:port``, or ``host`` if there is a ``default_port``; HeadError (400) for the rest.

        Names are ASCII (IDNA A-labels) and lose a final dot; IPv6 addresses come in brackets. A name
        whose last label is a number must be a plain IPv4 address: resolvers take 127.1 and 0x7f000001 for
        addresses too, and a rule that compares names would not.
        """
        if isinstance(text, bytes):
            text = text.decode("latin-1")
        found = _AUTHORITY.fullmatch(text)
        if found is None:
            raise _bad_authority(text, "write host:port, in ASCII, with an IPv6 address in brackets")
        host = _ipv6(text, found["ipv6"]) if found["ipv6"] else _name(text, found["name"])
        port = default_port if found["port"] is None else int(found["port"])
        if port is None:
            raise _bad_authority(text, "the port is missing: write host:port")
        if not 1 <= port <= 65535:
            raise _bad_authority(text, "the port must be a number from 1 to 65535")
        return cls(host, port)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _ipv6(text: str, address: str) -> str:
    try:
        return str(ipaddress.IPv6Address(address))
    except ValueError:
        raise _bad_authority(text, "what is in brackets must be an IPv6 address") from None


def _name(text: str, name: str) -> str:
    host = name.lower().removesuffix(".")
    if len(host) > _LONGEST_HOST or _LABELS.fullmatch(host) is None:
        raise _bad_authority(text, "a host name has labels of 1 to 63 characters and 253 in all")
    if _NUMBER.fullmatch(host.rpartition(".")[2]):
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise _bad_authority(text, "write an IPv4 address as four decimal numbers") from None
    return host


def _bad_authority(text: str, advice: str) -> HeadError:
    if "@" in text:
        text = "***@" + text.rpartition("@")[2]  # a user and a password, as in an URL
    shown = text if len(text) <= 100 else text[:100] + "..."
    return HeadError(f"{shown!r} is not a host and port: {advice}")


@frozen
class Head:
    """A request line and its header fields; names and values are as sent, without the space around them.

    ``version`` is HTTP/1.0 or HTTP/1.1; ``raw`` runs from the request line to the empty line at the end.
    """

    method: bytes
    target: bytes
    version: bytes
    headers: tuple[tuple[bytes, bytes], ...] = field(repr=False)  # passwords may be among them
    raw: bytes = field(repr=False)

    def header(self, name: bytes) -> bytes | None:
        """The value of the first field called ``name``, in any case."""
        wanted = name.lower()
        return next((value for key, value in self.headers if key.lower() == wanted), None)


@define(eq=False)
class HeadParser:
    """Reads one head of at most ``limit`` bytes; useless after it raised."""

    limit: int = 16384
    head: Head | None = field(default=None, init=False)
    _raw: bytearray = field(factory=bytearray, init=False)
    _line_start: int = field(default=0, init=False)
    _skipped: int = field(default=0, init=False)
    _request: tuple[bytes, bytes, bytes] | None = field(default=None, init=False)
    _headers: list[tuple[bytes, bytes]] = field(factory=list, init=False)

    def feed(self, data: bytes) -> int:
        """Take what belongs to the head from the front of ``data``; the number of bytes taken.

        It is less than all only when the head is complete, and 0 ever after. Raises HeadError.
        """
        taken = 0
        while self.head is None and taken < len(data):
            end = data.find(b"\n", taken) + 1 or len(data)
            room = self.limit - self._skipped - len(self._raw)
            piece = data[taken : min(end, taken + room)]
            self._take(piece)
            taken += len(piece)
            if taken < end:
                raise HeadError(
                    f"the request's head is larger than {self.limit} bytes: send fewer or shorter headers",
                    431,
                )
        return taken

    def _take(self, piece: bytes) -> None:
        """Add a piece that holds an LF at its end or nowhere."""
        self._raw += piece
        if self._request is None:
            self._check_beginning()
        if control := _CONTROL.search(piece):
            raise HeadError(f"the request's head contains the control character 0x{control[0].hex()}")
        if piece.endswith(b"\n"):
            line = bytes(self._raw[self._line_start :])
            if not line.endswith(b"\r\n"):
                raise HeadError("a line of the request's head ends in a bare LF: end lines in CR LF")
            if b"\r" in line[:-2]:
                raise HeadError("a line of the request's head contains a bare CR: end lines in CR LF")
            self._line_start = len(self._raw)
            self._take_line(line[:-2])

    def _check_beginning(self) -> None:
        """Refuse what cannot become a request line, before its end has come (or never comes)."""
        begin = bytes(self._raw[: _LONGEST_METHOD + 1])
        if not begin or (begin in (b"\r", b"\r\n") and not self._skipped):
            return
        method = _METHOD.match(begin)
        length = 0 if method is None else method.end()
        if length == len(begin) <= _LONGEST_METHOD or (length > 0 and begin[length : length + 1] == b" "):
            return
        found = _NOT_HTTP.get(begin[0], "something that does not begin with an HTTP method")
        raise HeadError(f"this port speaks HTTP: it received {found}")

    def _take_line(self, line: bytes) -> None:
        if self._request is None:
            if line:
                self._request = _request_line(line)
            else:
                self._skipped = len(self._raw)
                self._line_start = 0
                self._raw.clear()
        elif line:
            self._headers.append(_header_field(line))
        else:
            self.head = Head(*self._request, tuple(self._headers), bytes(self._raw))


def _request_line(line: bytes) -> tuple[bytes, bytes, bytes]:
    found = _REQUEST_LINE.fullmatch(line)
    if found is None:
        raise HeadError(
            "the request line is malformed: it must read METHOD TARGET HTTP/1.1, with single spaces"
        )
    method, target, version = found.groups()
    if version is None:
        raise HeadError("the request line names no HTTP version: HTTP/0.9 is not served, use HTTP/1.1")
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        shown = version[:20].decode("latin-1")
        raise HeadError(f"the request is for version {shown!r}: this port speaks HTTP/1.1 and HTTP/1.0")
    return method, target, version


def _header_field(line: bytes) -> tuple[bytes, bytes]:
    if line[:1] in b" \t":
        raise HeadError("a header is folded over several lines, which RFC 9112 forbids: send it on one")
    found = _FIELD.fullmatch(line)
    if found is None:
        raise HeadError(
            "a header line is malformed: it must read NAME: VALUE, with no space before the colon"
        )
    return found[1], found[2].strip(b" \t")
