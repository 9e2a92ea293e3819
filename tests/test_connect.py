"""A request's head is read exactly, early and within bounds, however its bytes arrive."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from regcachd.connect import Authority, Head, HeadError, HeadParser

CONNECT = b"CONNECT quay.io:443 HTTP/1.1\r\nHost: quay.io:443\r\nUser-Agent: skopeo/1.9\r\n\r\n"
CLIENT_HELLO = bytes.fromhex("16030100c8010000c40303")


def read(data: bytes, limit: int = 16384) -> tuple[Head | None, int]:
    parser = HeadParser(limit)
    return parser.head, parser.feed(data)


def outcome(pieces: list[bytes], limit: int = 16384) -> tuple[object, ...]:
    """What comes of feeding the pieces: head and bytes taken, or the error."""
    parser = HeadParser(limit)
    taken = 0
    try:
        for piece in pieces:
            count = parser.feed(piece)
            taken += count
            if count < len(piece):
                break
    except HeadError as error:
        return error.status, str(error)
    return parser.head, taken


def refusal(data: bytes, limit: int = 16384) -> HeadError:
    with pytest.raises(HeadError) as caught:
        HeadParser(limit).feed(data)
    return caught.value


def test_a_head_is_taken_and_what_follows_it_is_left() -> None:
    parser = HeadParser()
    assert parser.feed(CONNECT + CLIENT_HELLO) == len(CONNECT)
    assert parser.head == Head(
        b"CONNECT",
        b"quay.io:443",
        b"HTTP/1.1",
        ((b"Host", b"quay.io:443"), (b"User-Agent", b"skopeo/1.9")),
        CONNECT,
    )
    assert parser.feed(CLIENT_HELLO) == 0


def test_an_unfinished_head_is_taken_whole() -> None:
    parser = HeadParser()
    assert parser.feed(CONNECT[:-1]) == len(CONNECT) - 1
    assert parser.head is None
    assert parser.feed(b"") == 0
    assert parser.feed(CONNECT[-1:] + b"x") == 1
    assert parser.head is not None


def test_headers_are_found_in_any_case_and_the_first_counts() -> None:
    parser = HeadParser()
    parser.feed(b"GET / HTTP/1.0\r\nA: 1\r\na:  2\t\r\nB:\r\nC:x:y z\r\n\r\n")
    head = parser.head
    assert head is not None
    assert head.version == b"HTTP/1.0"
    assert head.headers == ((b"A", b"1"), (b"a", b"2"), (b"B", b""), (b"C", b"x:y z"))
    assert (head.header(b"a"), head.header(b"b"), head.header(b"D")) == (b"1", b"", None)


@pytest.mark.parametrize(
    ("data", "target"),
    [
        (b"CONNECT [::1]:443 HTTP/1.0\r\n\r\n", b"[::1]:443"),
        (
            b"GET http://registry:5000/v2/ HTTP/1.1\r\nHost: registry:5000\r\n\r\n",
            b"http://registry:5000/v2/",
        ),
        (b"OPTIONS * HTTP/1.1\r\n\r\n", b"*"),
        (b"x!#$%&'*+-.^_`|~9 /?a=b HTTP/1.1\r\n\r\n", b"/?a=b"),
        (b"A" * 32 + b" / HTTP/1.1\r\n\r\n", b"/"),
        ("GET /ä HTTP/1.1\r\nX: ä\r\n\r\n".encode(), "/ä".encode()),
    ],
)
def test_a_request_line_is_read(data: bytes, target: bytes) -> None:
    parser = HeadParser()
    assert parser.feed(data) == len(data)
    assert parser.head is not None
    assert parser.head.target == target
    assert parser.head.raw == data


def test_one_empty_line_before_the_request_is_skipped() -> None:
    parser = HeadParser()
    assert parser.feed(b"\r\n" + CONNECT + b"x") == 2 + len(CONNECT)
    assert parser.head is not None
    assert parser.head.raw == CONNECT
    assert refusal(b"\r\n\r\n").status == 400
    assert refusal(b"\rG").status == 400


REFUSED: dict[str, tuple[bytes, str]] = {
    "a ClientHello's first byte": (b"\x16", "TLS ClientHello; use http:// for the proxy address"),
    "a ClientHello": (CLIENT_HELLO, "this port speaks HTTP: it received a TLS ClientHello"),
    "SOCKS 5": (b"\x05", "SOCKS"),
    "a NUL": (b"\0", "something that does not begin with an HTTP method"),
    "binary": (b"\x80\x2e\x01", "something that does not begin"),
    "UTF-8": ("ä".encode(), "something that does not begin"),
    "a space first": (b" ", "something that does not begin"),
    "a bare LF first": (b"\n", "something that does not begin"),
    "another protocol's greeting": (b"SSH-2.0-OpenSSH_9.2p1\r\n", "something that does not begin"),
    "a method without end": (b"A" * 33, "something that does not begin"),
    "a long method": (b"A" * 33 + b" / HTTP/1.1", "something that does not begin"),
    "a method alone": (b"GET\r", "something that does not begin"),
    "a bad method": (b"G(T", "something that does not begin"),
    "HTTP/0.9": (b"GET /\r\n", "HTTP/0.9 is not served"),
    "no target": (b"GET \r\n", "malformed"),
    "no target but a version": (b"GET  HTTP/1.1\r\n", "malformed"),
    "two spaces": (b"GET /  HTTP/1.1\r\n", "malformed"),
    "a tab between": (b"GET /\tHTTP/1.1\r\n", "malformed"),
    "a space in the target": (b"GET /a b HTTP/1.1\r\n", "malformed"),
    "a space at the end": (b"GET / HTTP/1.1 \r\n", "malformed"),
    "HTTP/2's preface": (b"PRI * HTTP/2.0\r\n", "version 'HTTP/2.0'"),
    "HTTP/1.2": (b"GET / HTTP/1.2\r\n", "version"),
    "a lowercase version": (b"GET / http/1.1\r\n", "version"),
    "a version with much behind it": (b"GET / HTTP/1.10\r\n", "version"),
    "a NUL in the target": (b"GET /\0", "control character 0x00"),
    "an escape in the target": (b"GET /\x1b", "control character 0x1b"),
    "DEL in the target": (b"GET /\x7f", "control character 0x7f"),
    "a NUL in a header": (b"GET / HTTP/1.1\r\nA: \0", "control character 0x00"),
    "a control character in a name": (b"GET / HTTP/1.1\r\nA\x01", "control character 0x01"),
    "a bare LF after the request line": (b"GET / HTTP/1.1\n", "bare LF"),
    "a bare LF after a header": (b"GET / HTTP/1.1\r\nA: b\n", "bare LF"),
    "a bare LF at the end": (b"GET / HTTP/1.1\r\n\n", "bare LF"),
    "a bare CR in a header": (b"GET / HTTP/1.1\r\nA: b\rC: d\r\n", "bare CR"),
    "two CR": (b"GET / HTTP/1.1\r\r\n", "bare CR"),
    "a folded header": (b"GET / HTTP/1.1\r\nA: b\r\n c\r\n", "folded"),
    "a header folded with a tab": (b"GET / HTTP/1.1\r\nA: b\r\n\tc\r\n", "folded"),
    "white space before the first header": (b"GET / HTTP/1.1\r\n A: b\r\n", "folded"),
    "a space before the colon": (b"GET / HTTP/1.1\r\nA : b\r\n", "space before the colon"),
    "a tab before the colon": (b"GET / HTTP/1.1\r\nA\t: b\r\n", "space before the colon"),
    "no colon": (b"GET / HTTP/1.1\r\nA\r\n", "malformed"),
    "no name": (b"GET / HTTP/1.1\r\n: b\r\n", "malformed"),
    "a name that is no token": (b"GET / HTTP/1.1\r\nA(b): c\r\n", "malformed"),
    "a name that is not ASCII": ("GET / HTTP/1.1\r\nÄ: c\r\n".encode(), "malformed"),
}


@pytest.mark.parametrize(("data", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_bad_input_is_refused_at_its_first_telling_byte(data: bytes, message: str) -> None:
    """Each case ends with the byte that tells, except where it shows that more changes nothing."""
    error = refusal(data)
    assert error.status == 400
    assert message in str(error)
    assert outcome([data + CONNECT]) == outcome([data])


@pytest.mark.parametrize(
    "data",
    [
        CONNECT,
        b"\r\n" + CONNECT,
        b"GET /" + b"a" * 100,
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20,
        b"GET / HTTP/1.1\r\nA: " + b"\xff" * 100,
    ],
)
def test_the_limit_is_exact_and_counts_every_byte(data: bytes) -> None:
    assert outcome([data], len(data))[1] == len(data)
    for pieces in ([data], [data[n : n + 1] for n in range(len(data))]):
        status, message = outcome(pieces, len(data) - 1)
        assert status == 431
        assert f"larger than {len(data) - 1} bytes" in str(message)


def test_what_is_behind_the_head_does_not_count_towards_the_limit() -> None:
    assert outcome([CONNECT + b"x" * 1000], len(CONNECT))[1] == len(CONNECT)


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[begin:end] for begin, end in pairwise(edges)]


parts = st.sampled_from(
    [
        b"\r\n", b"\r", b"\n", b" ", b"\t", b":", b"\0", b"\x16", b"GET", b"CONNECT", b"/", b"a", b"HTTP/1.1",
        b"HTTP/1.0", b"GET / HTTP/1.1\r\n", b"Host: a\r\n", b"\r\n\r\n", b"A" * 20, CONNECT, b"\xff", b"a: b",
    ]
)  # fmt: skip


@given(
    st.one_of(
        st.lists(parts, max_size=12).map(b"".join), st.binary(), st.binary().map(lambda b: CONNECT[:40] + b)
    ),
    st.lists(st.integers(0, 1 << 16), max_size=6),
    st.integers(1, 120),
)
@example(b"GET /\r\0\n", [], 100)
@example(b"\r\n\r\n", [3], 100)
@example(b"A" * 40, [], 20)
def test_how_the_bytes_are_cut_changes_nothing(data: bytes, cuts: list[int], limit: int) -> None:
    """The head, the count of bytes taken, and the error are the same for any cuts."""
    expected = outcome([data], limit)
    assert outcome(pieces_of(data, cuts), limit) == expected
    assert outcome([data[n : n + 1] for n in range(len(data))], limit) == expected


VISIBLE = "".join(map(chr, range(0x21, 0x7F)))
OBSOLETE = "".join(map(chr, range(0x80, 0x100)))

tokens = st.text("abcXYZ019-_!", min_size=1, max_size=20).map(str.encode)
visible = st.text(VISIBLE, min_size=1, max_size=30).map(str.encode)
contents = st.text(" \t" + VISIBLE + OBSOLETE).map(lambda text: text.encode("latin-1").strip(b" \t"))


@given(
    tokens,
    visible,
    st.sampled_from([b"HTTP/1.0", b"HTTP/1.1"]),
    st.lists(st.tuples(tokens, contents)),
    st.binary(),
)
def test_a_well_formed_head_is_read_back(
    method: bytes, target: bytes, version: bytes, headers: list[tuple[bytes, bytes]], behind: bytes
) -> None:
    raw = b" ".join([method, target, version]) + b"\r\n"
    raw += b"".join(name + b": " + value + b"\r\n" for name, value in headers) + b"\r\n"
    parser = HeadParser(limit=1 << 20)
    assert parser.feed(raw + behind) == len(raw)
    assert parser.head == Head(method, target, version, tuple(headers), raw)


@pytest.mark.parametrize("body", [b"a: b\r\n", b"a", b" ", b"a: " + b"\t " * 20, b"a:\r\n"])
def test_a_large_head_that_arrives_in_small_pieces_takes_linear_time(body: bytes) -> None:
    """One megabyte in quadratic time would take minutes."""
    data = b"GET / HTTP/1.1\r\nx:" + (body * (1 << 20))[: 1 << 20]
    begin = time.process_time()
    outcome([data[n : n + 64] for n in range(0, len(data), 64)], 1 << 21)
    outcome([data], 1 << 21)
    assert time.process_time() - begin < 5


AUTHORITIES: list[tuple[str | bytes, int | None, str, int, str]] = [
    ("quay.io:443", None, "quay.io", 443, "quay.io:443"),
    (b"quay.io:443", None, "quay.io", 443, "quay.io:443"),
    ("QUAY.io.:443", None, "quay.io", 443, "quay.io:443"),
    ("quay.io", 80, "quay.io", 80, "quay.io:80"),
    ("quay.io:1", 80, "quay.io", 1, "quay.io:1"),
    ("a_b-c.d:65535", None, "a_b-c.d", 65535, "a_b-c.d:65535"),
    ("node7:5000", None, "node7", 5000, "node7:5000"),
    ("xn--bcher-kva.example:443", None, "xn--bcher-kva.example", 443, "xn--bcher-kva.example:443"),
    ("10.0.0.1:443", None, "10.0.0.1", 443, "10.0.0.1:443"),
    ("10.0.0.1.:443", None, "10.0.0.1", 443, "10.0.0.1:443"),
    ("[::1]:443", None, "::1", 443, "[::1]:443"),
    ("[2001:DB8:0:0::0:1]:443", None, "2001:db8::1", 443, "[2001:db8::1]:443"),
    ("[::1]", 443, "::1", 443, "[::1]:443"),
    (".".join(["a" * 63] * 3 + ["b" * 61]) + ":1", None, ".".join(["a" * 63] * 3 + ["b" * 61]), 1, ""),
]


@pytest.mark.parametrize(("text", "default", "host", "port", "written"), AUTHORITIES)
def test_an_authority_is_read_and_normalised(
    text: str | bytes, default: int | None, host: str, port: int, written: str
) -> None:
    authority = Authority.parse(text, default)
    assert authority == Authority(host, port)
    assert str(authority) == written or not written
    assert Authority.parse(str(authority)) == authority


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":443",
        "quay.io",
        "quay.io:",
        "quay.io:0",
        "quay.io:65536",
        "quay.io:443443",
        "quay.io:-1",
        "quay.io:+443",
        "quay.io:4_3",
        "quay.io:\u0664\u0664\u0663",
        "quay.io:443 ",
        " quay.io:443",
        "quay.io:443\n",
        "quay.io:443/",
        "http://quay.io:443",
        "user@quay.io:443",
        "user:password@quay.io:443",
        "quay.io:443:443",
        ".:443",
        "..:443",
        ".quay.io:443",
        "quay..io:443",
        "quay.io..:443",
        "quay io:443",
        "quay\0io:443",
        "quay%2eio:443",
        "*.quay.io:443",
        "b\u00fccher.example:443",
        b"b\xc3\xbccher.example:443",
        b"\xff:443",
        "a" * 64 + ".io:443",
        ".".join(["a" * 63] * 4) + ":443",
        "::1:443",
        "[::1]",
        "[::1]:0",
        "[]:443",
        "[::g]:443",
        "[1:2:3]:443",
        "[::1%25eth0]:443",
        "[::1%eth0]:443",
        "[127.0.0.1]:443",
        "[quay.io]:443",
        "[::1:443",
        "::1]:443",
        "127.1:443",
        "2130706433:443",
        "0x7f000001:443",
        "0x7f.0.0.1:443",
        "127.0.0.0x1:443",
        "0177.0.0.1:443",
        "256.0.0.1:443",
        "1.2.3.4.5:443",
        "example.0:443",
    ],
)
def test_what_is_no_authority_is_refused(text: str | bytes) -> None:
    with pytest.raises(HeadError, match="is not a host and port") as caught:
        Authority.parse(text)
    assert caught.value.status == 400


def test_a_bad_authority_is_shown_in_part() -> None:
    with pytest.raises(HeadError) as caught:
        Authority.parse("a b" * 10_000)
    assert len(str(caught.value)) < 300


@given(
    st.one_of(st.text(), st.binary(), st.text("[]:.0x1af%@-")), st.one_of(st.none(), st.integers(1, 65535))
)
def test_any_text_is_an_authority_that_reads_back_or_refused(text: str | bytes, default: int | None) -> None:
    try:
        authority = Authority.parse(text, default)
    except HeadError:
        return
    assert Authority.parse(str(authority)) == authority
