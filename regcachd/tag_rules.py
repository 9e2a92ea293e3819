"""Tag rules: for how long upstream's word on a tag counts, as the configuration says.

    revalidate   for `revalidate_interval`: long enough to ask once for all the nodes of a job
    ttl          for `tag_ttl`, or the time of the first rule whose pattern matches
    never        not at all: upstream serves the tag each time, and is relieved of the bytes if it has not moved

Without a rule for it, the tag that lists what refers to a manifest (OCI distribution spec, "Referrers Tag Schema") is
under `ttl`: every client asks for it, and it changes as rarely as the referrers of which it takes the place.
"""

import re
from enum import Enum
from fnmatch import translate

from attrs import field, frozen

from regcachd.units import BadValue, parse_duration

_REFERRERS_TAG = re.compile(r"sha256-[0-9a-f]{64}|sha512-[0-9a-f]{128}")
_LONGEST_PATTERN = 400
_MOST_LIFE = 3650 * 86400.0


class TagPolicy(Enum):
    """What upstream's word on a tag is worth."""

    REVALIDATE = "revalidate"
    TTL = "ttl"
    NEVER = "never"


@frozen
class TagRule:
    """A policy for the tags that match: `match` is a pattern on REPOSITORY:TAG, where * is any text."""

    match: str
    policy: TagPolicy
    ttl: float | None = None
    """Seconds, for TTL; None for those of `tag_ttl`."""
    _pattern: re.Pattern[str] = field(init=False, eq=False, repr=False)

    @_pattern.default
    def _translated(self) -> re.Pattern[str]:
        return re.compile(translate(self.match))

    def matches(self, repository: str, tag: str) -> bool:
        """Is the rule about this tag?"""
        return self._pattern.match(f"{repository}:{tag}") is not None


@frozen
class TagTerms:
    """How a registry's tags are kept; times are in seconds."""

    policy: TagPolicy
    revalidate_interval: float
    ttl: float
    rules: tuple[TagRule, ...]
    max_stale: float
    """The age up to which an entry is served when upstream fails."""

    def life(self, repository: str, tag: str) -> float | None:
        """For how long upstream's word on this tag counts; None for never. The first rule that matches decides."""
        policy, ttl = self.policy, None
        for rule in self.rules:
            if rule.matches(repository, tag):
                policy, ttl = rule.policy, rule.ttl
                break
        else:
            if policy is TagPolicy.REVALIDATE and _REFERRERS_TAG.fullmatch(tag):
                policy = TagPolicy.TTL
        if policy is TagPolicy.NEVER:
            return None
        if policy is TagPolicy.REVALIDATE:
            return self.revalidate_interval
        return self.ttl if ttl is None else ttl


def tag_policy(value: object) -> TagPolicy:
    """The reader of `tags`."""
    for policy in TagPolicy:
        if value == policy.value:
            return policy
    raise BadValue("expected revalidate, ttl or never, in quotes")


def tag_rule(value: object) -> TagRule:
    """The reader of one of `tag_rules`."""
    example = 'expected {match = "REPOSITORY:TAG", ttl = "10m"}, or tags = "never" instead of a ttl'
    if not isinstance(value, dict) or not value.keys() <= {"match", "ttl", "tags"} or len(value) < 2:
        raise BadValue(example)
    match = value.get("match")
    if (
        not isinstance(match, str)
        or ":" not in match
        or not match.isprintable()
        or len(match) > _LONGEST_PATTERN
    ):
        raise BadValue(f"{example}; match is a text with a colon, in which * stands for any text")
    if "ttl" not in value:
        return TagRule(match, tag_policy(value["tags"]))
    ttl = parse_duration(value["ttl"])
    if ttl > _MOST_LIFE:
        raise BadValue("expected a ttl from 0s to 3650d")
    if tag_policy(value.get("tags", "ttl")) is not TagPolicy.TTL:
        raise BadValue('a ttl goes with tags = "ttl", or without that')
    return TagRule(match, TagPolicy.TTL, ttl)
