"""What a registry's answers mean: tables of answers and of findings. And findings, whose words are harmless."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regcachd import verdicts
from regcachd.finding import Finding, Over, Record, failure, ok, printable, warning, worst
from regcachd.imagename import ImageName
from regcachd.reference import Digest

NOW = datetime(2026, 5, 1, 12, 0, 0, tzinfo=UTC)
REFERENCE = ImageName.parse("team/app:1").within("quay.io", has_official=False)
A, B = Digest.of(b"a"), Digest.of(b"b")
INDEX = "application/vnd.oci.image.index.v1+json"


def shown(finding: Finding | None) -> tuple[str, str]:
    assert finding is not None
    return finding.outcome, finding.says + " " + finding.advice


@pytest.mark.parametrize(
    ("status", "outcome", "words"),
    [
        (200, "ok", "asks nobody"),
        (401, "ok", "asks who is there"),
        (301, "failure", "redirects"),
        (404, "failure", "it is no registry"),
        (429, "failure", "too many requests from here; it says to try again after: 30"),
        (503, "failure", "trouble of its own"),
    ],
)
def test_ping(status: int, outcome: str, words: str) -> None:
    found = shown(verdicts.ping(status, {"retry-after": "30"}))
    assert found[0] == outcome
    assert words in found[1]


@pytest.mark.parametrize(
    ("date", "outcome", "words"),
    [
        ("Fri, 01 May 2026 12:00:30 GMT", "ok", "agree"),
        ("Fri, 01 May 2026 11:58:00 GMT", "warning", "2 min ahead of the registry's"),
        ("Fri, 01 May 2026 15:00:00 GMT", "warning", "3 h behind the registry's"),
        ("Thu, 01 Jan 1970 00:00:00 GMT", "warning", "d ahead"),
    ],
)
def test_clock(date: str, outcome: str, words: str) -> None:
    found = shown(verdicts.clock({"date": date}, NOW))
    assert found[0] == outcome
    assert words in found[1]


@pytest.mark.parametrize(
    "headers", [{}, {"date": ""}, {"date": "yesterday"}, {"date": "Fri, 01 May 2026 12:00:00"}]
)
def test_no_date_is_no_finding(headers: dict[str, str]) -> None:
    """A date without a zone is none, either."""
    assert verdicts.clock(headers, NOW) is None


@pytest.mark.parametrize(
    ("limit", "left", "outcome", "words"),
    [
        ("100;w=21600", "76;w=21600", "ok", "76 of 100 pulls in 6 h are left"),
        ("100;w=21600", "9;w=21600", "warning", "9 of 100 pulls in 6 h are left"),
        ("5000", "5000", "ok", "5,000 of 5,000 pulls are left"),
    ],
)
def test_limits(limit: str, left: str, outcome: str, words: str) -> None:
    found = shown(verdicts.limits({"ratelimit-limit": limit, "ratelimit-remaining": left}))
    assert found[0] == outcome
    assert words in found[1]


@pytest.mark.parametrize("headers", [{}, {"ratelimit-limit": "many", "ratelimit-remaining": "few"}])
def test_no_limit_is_no_finding(headers: dict[str, str]) -> None:
    assert verdicts.limits(headers) is None


@pytest.mark.parametrize(
    ("status", "headers", "is_own", "outcome", "words"),
    [
        (200, {"docker-content-digest": str(A)}, True, "ok", f"quay.io/team/app:1 is there: {A}, a manifest"),
        (200, {"docker-content-digest": str(A), "content-type": INDEX}, False, "ok", "an index of several"),
        (200, {}, True, "warning", "HEAD does not say its digest"),
        (401, {}, True, "failure", "says no to the credential"),
        (403, {}, True, "failure", "says no to the credential"),
        (401, {}, False, "warning", "not public, or is not there"),
        (404, {}, False, "failure", "name and tag"),
        (429, {"retry-after": "60"}, False, "failure", "credential of its own"),
        (502, {}, True, "failure", "answers 502"),
    ],
)
def test_manifest(status: int, headers: dict[str, str], is_own: bool, outcome: str, words: str) -> None:
    found = shown(verdicts.manifest(status, headers, REFERENCE, is_own=is_own))
    assert found[0] == outcome
    assert words in found[1]


@pytest.mark.parametrize(
    ("status", "location", "outcome", "words"),
    [
        (200, None, "ok", "from the registry itself"),
        (307, "cdn.example", "ok", "comes from cdn.example"),
        (401, None, "failure", "says no"),
        (307, None, "failure", "answers 307"),
    ],
)
def test_layer(status: int, location: str | None, outcome: str, words: str) -> None:
    found = shown(verdicts.layer(status, {}, "it", location, is_own=True))
    assert found[0] == outcome
    assert words in found[1]


@pytest.mark.parametrize(("status", "outcome"), [(206, "ok"), (200, "warning"), (403, "failure")])
def test_download(status: int, outcome: str) -> None:
    assert shown(verdicts.download(status, {}, "it"))[0] == outcome


@pytest.mark.parametrize(
    ("status", "share", "has_credential", "words"),
    [
        (200, False, True, "public"),
        (401, True, True, "every client may have it"),
        (401, False, True, "or `share = true` here"),
        (403, True, False, "clients need a credential"),
        (429, False, True, "cannot be told"),
    ],
)
def test_clients(status: int, share: bool, has_credential: bool, words: str) -> None:
    assert words in shown(verdicts.clients(status, share, has_credential))[1]


def test_certificate() -> None:
    """One that will not be valid for long is worth a warning."""
    names = ["a.example", "b.example", "c.example", "d.example"]
    found = verdicts.certificate(names, "Some CA", NOW + timedelta(days=90), NOW, "by this system")
    assert shown(found) == (
        "ok",
        "certificate for a.example, b.example, c.example and 1 more, by Some CA, until 2026-07-30, "
        "trusted by this system ",
    )
    assert verdicts.certificate(names, "", NOW + timedelta(days=3), NOW, "").outcome == "warning"


def described(*digests: Digest, **more: object) -> list[dict[str, object]]:
    return [{"digest": str(digest), **more} for digest in digests]


@pytest.mark.parametrize(
    ("document", "child", "blob"),
    [
        ({"layers": described(A, B), "config": {"digest": str(B)}}, None, A),
        ({"layers": [], "config": {"digest": str(B)}}, None, B),
        ({"layers": [*described(A, urls=["https://x"]), *described(B)]}, None, B),
        ({"manifests": described(A, B)}, A, None),
        (
            {
                "manifests": [
                    *described(A, platform={"os": "unknown", "architecture": "unknown"}),
                    *described(A, platform={"os": "linux", "architecture": "arm64"}),
                    *described(B, platform={"os": "linux", "architecture": "amd64"}),
                ]
            },
            B,
            None,
        ),
        ({"layers": "no", "manifests": [1], "config": 7}, None, None),
        ({"layers": [{"digest": "sha256:ab"}]}, None, None),
        ({"fsLayers": [{"blobSum": str(A)}]}, None, None),
        ([], None, None),
    ],
)
def test_contents(document: object, child: Digest | None, blob: Digest | None) -> None:
    found = verdicts.contents(json.dumps(document).encode())
    assert (found.child, found.blob) == (child, blob)


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.text(), st.lists).map(lambda x: json.dumps(x).encode())
)
def test_whatever_a_manifest_is_nothing_is_raised(body: bytes) -> None:
    verdicts.contents(body)


def test_deeply_nested_json_is_no_manifest() -> None:
    assert verdicts.contents(b"[" * 100_000) == verdicts.Contents()


# -- findings


@given(st.text())
def test_words_cannot_drive_a_terminal(text: str) -> None:
    assert printable(text).isprintable()
    assert Finding("x", "ok", text, text).says.isprintable()


def test_the_worst_counts() -> None:
    assert worst([]) == "ok"
    assert worst([ok("a", ""), warning("b", ""), ok("c", "")]) == "warning"
    assert worst([failure("a", ""), warning("b", "")]) == "failure"


def test_a_record_ends_with_its_first_failure() -> None:
    record = Record()
    record.add(ok("a", ""), None, warning("b", ""))
    with pytest.raises(Over):
        record.add(failure("c", "no"))
    assert [each.outcome for each in record.findings] == ["ok", "warning", "failure"]
