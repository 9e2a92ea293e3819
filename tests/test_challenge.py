"""WWW-Authenticate is read as registries write it, and nothing in it raises."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regcachd.challenge import Challenge, parse_challenges

HUB = Challenge("bearer", {"realm": "https://auth.docker.io/token", "service": "registry.docker.io"})

CASES: dict[str, tuple[list[str], list[Challenge]]] = {
    "no header": ([], []),
    "an empty header": ([""], []),
    "Docker Hub": (['Bearer realm="https://auth.docker.io/token",service="registry.docker.io"'], [HUB]),
    "any case": (['BEARER Realm="https://auth.docker.io/token",SERVICE="registry.docker.io"'], [HUB]),
    "spaces around commas and equals signs": (
        ['  Bearer   realm = "https://auth.docker.io/token" ,\tservice= "registry.docker.io" , '],
        [HUB],
    ),
    "spaces instead of commas": (
        ['Bearer realm="https://auth.docker.io/token" service="registry.docker.io"'],
        [HUB],
    ),
    "a scope with commas and an error": (
        ['Bearer realm="https://r/t",service="s",scope="repository:a/b:pull,push",error="invalid_token"'],
        [
            Challenge(
                "bearer",
                {
                    "realm": "https://r/t",
                    "service": "s",
                    "scope": "repository:a/b:pull,push",
                    "error": "invalid_token",
                },
            )
        ],
    ),
    "gcr.io: an unquoted service": (
        ['Bearer realm="https://gcr.io/v2/token",service=gcr.io'],
        [Challenge("bearer", {"realm": "https://gcr.io/v2/token", "service": "gcr.io"})],
    ),
    "IBM: all unquoted, spaces after commas": (
        ["Bearer realm=https://icr.io/oauth/token, service=registry, scope=repository:a/b:pull"],
        [
            Challenge(
                "bearer",
                {
                    "realm": "https://icr.io/oauth/token",
                    "service": "registry",
                    "scope": "repository:a/b:pull",
                },
            )
        ],
    ),
    "nvcr.io: no service": (
        ['Bearer realm="https://nvcr.io/proxy_auth",scope="repository:nvidia/cuda:pull"'],
        [
            Challenge(
                "bearer", {"realm": "https://nvcr.io/proxy_auth", "scope": "repository:nvidia/cuda:pull"}
            )
        ],
    ),
    "a realm with a query": (
        ['Bearer realm="https://h/t?service=x&a=1,2",service="y"'],
        [Challenge("bearer", {"realm": "https://h/t?service=x&a=1,2", "service": "y"})],
    ),
    "an unquoted realm with a query": (
        ["Bearer realm=https://h/t?service=x,service=y"],
        [Challenge("bearer", {"realm": "https://h/t?service=x", "service": "y"})],
    ),
    "ECR: Basic with a service": (
        ['Basic realm="https://1.dkr.ecr.eu-west-1.amazonaws.com/",service="ecr.amazonaws.com"'],
        [
            Challenge(
                "basic",
                {"realm": "https://1.dkr.ecr.eu-west-1.amazonaws.com/", "service": "ecr.amazonaws.com"},
            )
        ],
    ),
    "two challenges in one header": (
        ['Basic realm="r", Bearer realm="https://h/t",service="s"'],
        [Challenge("basic", {"realm": "r"}), Challenge("bearer", {"realm": "https://h/t", "service": "s"})],
    ),
    "two headers": (
        ['Bearer realm="https://h/t"', 'Basic realm="r"'],
        [Challenge("bearer", {"realm": "https://h/t"}), Challenge("basic", {"realm": "r"})],
    ),
    "a parameter never belongs to the header before": (
        ['Bearer realm="r"', 'service="s"'],
        [Challenge("bearer", {"realm": "r"})],
    ),
    "RFC 9110's example": (
        ['Basic realm="simple", Newauth realm="apps", type=1, title="Login to \\"apps\\""'],
        [
            Challenge("basic", {"realm": "simple"}),
            Challenge("newauth", {"realm": "apps", "type": "1", "title": 'Login to "apps"'}),
        ],
    ),
    "an escaped backslash before the closing quote": (
        ['Basic realm="a\\\\", Bearer realm="b"'],
        [Challenge("basic", {"realm": "a\\"}), Challenge("bearer", {"realm": "b"})],
    ),
    "schemes alone and in token68 form": (
        ["Negotiate, NTLM TlRMTVNTUAAC/+==, Basic realm=r, Negotiate YWJj"],
        [
            Challenge("negotiate", {}),
            Challenge("ntlm", {}),
            Challenge("basic", {"realm": "r"}),
            Challenge("negotiate", {}),
        ],
    ),
    "a scheme alone": (["Basic"], [Challenge("basic", {})]),
    "empty list elements": (
        [', ,Bearer realm="r",,, service=s, ,'],
        [Challenge("bearer", {"realm": "r", "service": "s"})],
    ),
    "empty values": (
        ['Bearer service=,scope="",realm="r",error='],
        [Challenge("bearer", {"scope": "", "realm": "r", "error": ""})],
    ),
    "an empty unquoted value behind another": (
        ['Bearer realm="r",scope=,service="s"'],
        [Challenge("bearer", {"realm": "r", "scope": "", "service": "s"})],
    ),
    "of a parameter twice the first counts": (
        ["Basic realm=a, Realm=b"],
        [Challenge("basic", {"realm": "a"})],
    ),
    "a parameter before any scheme": (['realm="a", Basic realm="b"'], [Challenge("basic", {"realm": "b"})]),
    "an unclosed quote": (['Bearer service="s",realm="https://h'], [Challenge("bearer", {"service": "s"})]),
    "a quoted string out of place": (
        ['"Bearer realm=x, y" Basic realm=r'],
        [Challenge("basic", {"realm": "r"})],
    ),
    "garbage": (["@{}()[]<>\0\x7fä;:\\/?=="], []),
    "garbage around a challenge": (['@@@ Basic realm="r" ???'], [Challenge("basic", {"realm": "r"})]),
}


@pytest.mark.parametrize(("values", "expected"), CASES.values(), ids=CASES.keys())
def test_a_header_is_read(values: list[str], expected: list[Challenge]) -> None:
    assert parse_challenges(values) == expected


def test_a_challenge_is_a_value() -> None:
    """It can be a key, and nobody can change what it says, not even who made it."""
    source = {"realm": "r"}
    challenge = Challenge("basic", source)
    source["realm"] = "other"
    assert {challenge: 1}[Challenge("basic", {"realm": "r"})] == 1
    with pytest.raises(TypeError):
        challenge.parameters["realm"] = "other"  # type: ignore[index]


names = st.text("abcz-_", min_size=1)
texts = st.text("".join(map(chr, range(0x20, 0x100))))


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@given(
    st.lists(st.tuples(names, st.dictionaries(names, texts, min_size=1, max_size=4)), max_size=5),
    st.booleans(),
)
def test_what_is_written_with_quotes_is_read_back(
    written: list[tuple[str, dict[str, str]]], together: bool
) -> None:
    values = [
        f"{scheme} " + ", ".join(f"{name}={quoted(value)}" for name, value in parameters.items())
        for scheme, parameters in written
    ]
    if together:
        values = [", ".join(values)]
    assert parse_challenges(values) == [Challenge(scheme, parameters) for scheme, parameters in written]


@given(st.lists(st.one_of(st.text(), st.text('ab=,"\\ \t/')), max_size=4))
def test_nothing_raises_and_everything_is_lowercase(values: list[str]) -> None:
    for challenge in parse_challenges(values):
        assert challenge.scheme
        assert challenge.scheme == challenge.scheme.lower()
        assert all(name == name.lower() for name in challenge.parameters)


def test_the_result_is_bounded() -> None:
    assert len(parse_challenges(["a, " * 1000] * 3)) == 32
    (only,) = parse_challenges(["a " + ",".join(f"p{n}=1" for n in range(1000))])
    assert len(only.parameters) == 32
    assert parse_challenges(['Basic realm="' + "x" * 20_000 + '"', "Basic realm=r"]) == [
        Challenge("basic", {"realm": "r"})
    ]


@pytest.mark.parametrize(
    "unit", ['"', '\\"', '"\\', "a", "a ", "a/", "a=", "=", " ", "a\t \t", "a,", "@", "a a="]
)
def test_hostile_repetition_is_read_in_linear_time(unit: str) -> None:
    """Quadratic time would take seconds for the longest value that is read."""
    text = "Basic " + (unit * 16384)[:16000] + "@"
    begin = time.process_time()
    parse_challenges([text, "a" + text])
    assert time.process_time() - begin < 0.5
