"""Token endpoints, as clients see them: one anonymous token for all who want the same.

A registry's realms are known beforehand, or read from the challenges that pass through here. They are on the
registry's own host or on one of its `token_hosts`, which are intercepted like the registry and are asked themselves.
Only requests without any credential are answered from the commons (`sharing` is the rule); all others go to the realm
untouched, and nothing of them is kept.

While upstream cannot be asked for a new token, clients get the old one, even after its end, up to the age of
`max_stale`: there are clients who ask for nothing before they have a token, and what is stored needs no good one.
"""

from collections.abc import Iterable, Mapping

from attrs import define, evolve, field

from .challenge import parse_challenges
from .commons import STORED, Common, impersonal, is_anybodys, once
from .config import Registry
from .connect import Authority, HeadError
from .evidence import ANONYMOUS
from .http1 import UpstreamFailed
from .pings import Pings
from .registry import CachedRegistry
from .relay import TooLarge, asking, capture
from .routes import Elsewhere, route
from .sharing import LIFE, end_of, read_grant, retold, tokens_in, wanted
from .upstream import Upstream
from .values import realm_authority
from .web import MOST_BODY, Request

MOST_REALMS = 16
"""Realms of one registry that are learned."""


def at_token_host(registry: Registry, host: Authority) -> Registry:
    """The token host of a registry, as something requests can be sent to."""
    url = f"https://{str(host).removesuffix(':443')}"
    return evolve(registry, name=str(host).removesuffix(":443"), upstream=url, authorities=frozenset({host}))


@define(eq=False)
class TokenEndpoints:
    """The token endpoints of one registry; `hosts` are those of its token hosts."""

    _registry: CachedRegistry
    _pings: Pings
    _hosts: Mapping[Authority, Upstream]
    _realms: set[str] = field(init=False, factory=set)
    """As URLs, at the upstreams that are asked for them."""

    def __attrs_post_init__(self) -> None:
        if self._registry.settings.realm is not None:
            self._learn(self._registry.settings.realm)

    def host(self, authority: Authority | None) -> Upstream | None:
        """The token host that a client has connected to, if it is one."""
        return self._hosts.get(authority) if authority is not None else None

    async def answer(self, request: Request, upstream: Upstream) -> bool:
        """Answer a request for a token as anybody would be answered; False for what is no such request."""
        if request.method != b"GET" or not is_anybodys(request):
            return False
        want = wanted(request.query)
        realm = upstream.registry.upstream + request.path.decode("latin-1")
        if want is None or not self._is_realm(realm):
            return False
        shared = self._registry.shared
        key = f"token {self._registry.settings.name} {realm} {want}"
        target, headers = request.uri, asking(request)
        common = await shared.commons.get(key, lambda: self._fetch(upstream, target, headers))
        answer = common.answer
        if common.ends > common.came:
            now, ends = shared.now(), end_of(answer.body, common.came)
            if ends <= now:
                ends = now + LIFE  # its client is to ask again soon
            for token in tokens_in(answer.body):
                shared.anonymity.note(token, key, ends)
            answer = evolve(answer, body=retold(answer.body, ends, now))
        answer.send(request, common.status)
        return True

    async def _fetch(self, upstream: Upstream, target: bytes, headers: list[tuple[bytes, bytes]]) -> Common:
        """Ask the realm. The headers have no credential, and none may ever be added on this way."""
        asked = self._registry.shared.now()
        response = await upstream.request(b"GET", target, headers)
        try:
            answer = await capture(response, MOST_BODY)
        except TooLarge as error:
            raise UpstreamFailed(
                f"{upstream.registry.name} sent a token that is too large: {error}"
            ) from error
        self._registry.restraint.heard_elsewhere(ANONYMOUS, answer, answer.body)
        if answer.status == 200 and answer.header(b"content-encoding") is None:
            date = answer.header(b"date")
            grant = read_grant(answer.body, asked, None if date is None else date.decode("latin-1"))
            if grant is not None:
                told = evolve(impersonal(answer), body=retold(answer.body, grant.ends, asked))
                kept_until = max(grant.ends, asked + self._registry.settings.tag_terms.max_stale)
                return Common(told, asked, grant.shared_until, kept_until, STORED)
        return once(answer, asked)

    # -- what the registry says of its tokens

    def refused(self, request: Request) -> None:
        """A 401 has gone to a client: its challenges name realms, or say that a token is worth nothing."""
        values = [v.decode("latin-1") for v in request.responseHeaders.getRawHeaders(b"www-authenticate", [])]
        self._learn_from(values)
        if any(each.parameters.get("error") == "invalid_token" for each in parse_challenges(values)):
            key = self._registry.shared.anonymity.wanted(request.header("authorization"))
            if key is not None:
                self._registry.shared.commons.forget(key)

    def _is_realm(self, realm: str) -> bool:
        if realm not in self._realms:
            ping = self._pings.known()  # may have gone through another worker, or through an earlier daemon
            if ping is not None:
                challenges = [v for n, v in ping.answer.headers if n.lower() == b"www-authenticate"]
                self._learn_from(value.decode("latin-1") for value in challenges)
        return realm in self._realms

    def _learn_from(self, values: Iterable[str]) -> None:
        for challenge in parse_challenges(values):
            if challenge.scheme == "bearer" and "realm" in challenge.parameters:
                self._learn(challenge.parameters["realm"])

    def _learn(self, realm: str) -> None:
        """Remember a realm on one of the registry's own hosts. Its query does not count: clients repeat it."""
        try:
            authority = realm_authority(realm)
        except HeadError:
            return
        host = self._hosts.get(authority)
        if host is None and authority not in self._registry.settings.authorities:
            return
        path = "/" + realm.partition("://")[2].partition("?")[0].partition("#")[0].partition("/")[2]
        if len(self._realms) < MOST_REALMS and isinstance(route(path.encode()), Elsewhere):
            upstream = self._registry.upstream if host is None else host
            self._realms.add(upstream.registry.upstream + path)
