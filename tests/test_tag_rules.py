"""For how long upstream's word on a tag counts."""

import pytest

from regcachd.tag_rules import TagPolicy, TagRule, TagTerms, tag_policy, tag_rule
from regcachd.units import BadValue

REFERRERS = "sha256-" + "a" * 64
RULES = (
    TagRule("*/nightly*:*", TagPolicy.TTL, 600.0),
    TagRule("library/*:latest", TagPolicy.NEVER),
    TagRule("*:*[0-9.]*[0-9.]*", TagPolicy.TTL),
    TagRule("team/app:*", TagPolicy.REVALIDATE),
)


@pytest.mark.parametrize(
    ("policy", "repository", "tag", "life"),
    [
        (TagPolicy.REVALIDATE, "team/x", "stable", 5.0),
        (TagPolicy.TTL, "team/x", "stable", 3600.0),
        (TagPolicy.NEVER, "team/x", "stable", None),
        (TagPolicy.REVALIDATE, "team/nightly-2", "stable", 600.0),
        (TagPolicy.REVALIDATE, "a/b/nightly", "latest", 600.0),
        (TagPolicy.REVALIDATE, "nightly", "x", 5.0),
        (TagPolicy.TTL, "library/a/b", "latest", None),
        (TagPolicy.TTL, "other/library/a", "latest", 3600.0),
        (TagPolicy.NEVER, "team/x", "v1.2", 3600.0),
        (TagPolicy.NEVER, "team/app", "stable", 5.0),
        (TagPolicy.NEVER, "team/app", "STABLE", 5.0),
        (TagPolicy.NEVER, "Team/app", "x", None),
    ],
)
def test_the_first_rule_that_matches_decides(
    policy: TagPolicy, repository: str, tag: str, life: float | None
) -> None:
    assert TagTerms(policy, 5.0, 3600.0, RULES, 0.0).life(repository, tag) == life


@pytest.mark.parametrize(
    ("policy", "tag", "life"),
    [
        (TagPolicy.REVALIDATE, REFERRERS, 3600.0),
        (TagPolicy.TTL, REFERRERS, 3600.0),
        (TagPolicy.NEVER, REFERRERS, None),
        (TagPolicy.REVALIDATE, "sha512-" + "0" * 128, 3600.0),
        (TagPolicy.REVALIDATE, REFERRERS + ".sig", 5.0),
        (TagPolicy.REVALIDATE, REFERRERS[:-1], 5.0),
    ],
)
def test_the_list_of_referrers_lives_long(policy: TagPolicy, tag: str, life: float | None) -> None:
    assert TagTerms(policy, 5.0, 3600.0, (), 0.0).life("team/app", tag) == life
    own = (TagRule("*", TagPolicy.TTL, 7.0),)
    assert TagTerms(policy, 5.0, 3600.0, own, 0.0).life("team/app", tag) == 7.0


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ({"match": "*/nightly*:*", "ttl": "10m"}, RULES[0]),
        ({"match": "*/nightly*:*", "ttl": 600, "tags": "ttl"}, RULES[0]),
        ({"match": "library/*:latest", "tags": "never"}, RULES[1]),
        ({"match": "team/app:*", "tags": "revalidate"}, RULES[3]),
    ],
)
def test_rules_are_read(value: object, rule: TagRule) -> None:
    assert tag_rule(value) == rule


@pytest.mark.parametrize(
    "value",
    [
        "x:*",
        {},
        {"match": "x:*"},
        {"ttl": "1m"},
        {"match": "x", "ttl": "1m"},
        {"match": "", "ttl": "1m"},
        {"match": 5, "ttl": "1m"},
        {"match": "a:\n", "ttl": "1m"},
        {"match": "a:" + "*" * 400, "ttl": "1m"},
        {"match": "a:*", "ttl": "1 minute"},
        {"match": "a:*", "ttl": "4000d"},
        {"match": "a:*", "ttl": "1m", "tags": "never"},
        {"match": "a:*", "tags": "sometimes"},
        {"match": "a:*", "ttl": "1m", "other": 1},
    ],
)
def test_what_is_no_rule_is_refused(value: object) -> None:
    with pytest.raises(BadValue, match=r"expected|goes with"):
        tag_rule(value)


@pytest.mark.parametrize("value", ["", "TTL", 5, None, ["ttl"]])
def test_what_is_no_policy_is_refused(value: object) -> None:
    with pytest.raises(BadValue, match="revalidate, ttl or never"):
        tag_policy(value)


def test_a_pattern_of_many_stars_is_matched_quickly() -> None:
    rule = TagRule("*a" * 60 + ":b", TagPolicy.NEVER)
    assert not rule.matches("a" * 255, "c" * 128)
