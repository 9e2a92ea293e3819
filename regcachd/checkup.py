"""A checkup: a registry is looked at as its images are fetched from it, and each step says what works and what not.

It has an upstream, a credential and tokens of its own, so that what it finds is how things are now, and nothing of what
the daemon remembers. It ends at the first step without which those after it mean nothing.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from attrs import define, evolve, field

from .authentication import ANONYMOUS, Plugins, home_of
from .challenge import Challenge
from .config import Config, Registry
from .connect import Authority, HeadError
from .domains import registrable
from .fetch import Web
from .finding import Finding, Over, Record, failure, ok, warning
from .http1 import Response, UpstreamFailed
from .imagename import ImageName
from .intercept import Refuse, decide
from .interfaces import AuthFailed, IAuthenticator, Scope
from .known import KNOWN
from .netloc import Netloc, parse_url
from .reachability import connect_each, dns, reach, resolve
from .realm import Realm, distrusted, judge_realm
from .reference import InvalidReference, Reference
from .safekeeping import exposed, secrets_of
from .sample import Sample, headers_of
from .secret import SecretUnreadable
from .session import Challenges, CredentialRefused, Session, challenges_of
from .tokens import bearer_challenges
from .trust import TrustUnusable
from .upstream import Upstream
from .verdicts import clients, clock, ping, sharing

PATIENCE = 15.0
"""Seconds, at most, for each thing that is waited for."""


@define(eq=False)
class Checkup:
    """One look at one registry. `now` gives seconds since the epoch."""

    _reactor: Any
    _config: Config
    _registry: Registry
    _plugins: Plugins
    _now: Callable[[], float]
    record: Record = field(factory=Record)
    _upstream: Upstream | None = None

    async def run(self, image: str | None) -> None:
        """Take all steps that make sense."""
        try:
            self._configured()
            reference = None if image is None else self._image(image)
            upstream = self._opened()
            home = parse_url(self._registry.upstream)[0]
            await self._connection(home)
            answered = await self._ping(upstream)
            self._challenges(answered)
            session = await self._session(upstream, answered, reference)
            if reference is not None:
                await self._sample(session, reference).take()
                await self._for_everybody(upstream, answered, reference)
        except Over:
            pass
        except UpstreamFailed as error:
            self.record.end(failure(self.record.step, str(error)))

    def close(self) -> None:
        """Let go of all connections."""
        if self._upstream is not None:
            self._upstream.close()

    # -- what is configured

    def _image(self, text: str) -> Reference:
        self.record.step = "image"
        try:
            name = ImageName.parse(text)
            host = None if name.host is None else Authority.parse(name.host, 443)
        except (InvalidReference, HeadError) as error:
            raise self.record.end(failure("image", f"this is not the name of an image: {error}")) from None
        registry = self._registry
        if host is not None and host not in registry.authorities:
            says = f"{text} is not an image of {registry.name}"
            raise self.record.end(failure("image", says, "name its own registry"))
        is_hub = registry.upstream == KNOWN["docker.io"].upstream
        return name.within(registry.name, has_official=is_hub)

    def _configured(self) -> None:
        """What is cached, and whether the secrets that it needs are there, for the daemon's eyes only."""
        registry = self._registry
        says = f"{registry.name} is cached, from {registry.upstream}"
        if registry.auth is None:
            self.record.add(ok("name", f"{says}, without a credential of regcachd's own"))
            return
        self.record.add(ok("name", f'{says}, with a credential (auth = "{registry.auth.kind}")'))
        self.record.add(sharing(registry.share))
        self.record.step = "secret"
        alone = evolve(self._config, registries={registry.name: registry})
        its = f'registries."{registry.name}".'
        for key, secret in secrets_of(alone):
            if not key.startswith(its):
                continue
            try:
                secret.read()
            except SecretUnreadable as error:
                advice = "look whether the file is there, and whether the daemon's user may read it"
                raise self.record.end(failure("secret", f"{key}: {error}", advice)) from None
        self.record.add(
            *(warning("secret", problem) for problem in exposed(alone) if problem.startswith(its))
        )

    def _opened(self) -> Upstream:
        limits = evolve(
            self._config.limits, connect_timeout=min(self._config.limits.connect_timeout, PATIENCE)
        )
        try:
            self._upstream = Upstream(self._reactor, self._registry, limits)
        except TrustUnusable:
            says = (
                f"the file {self._registry.ca}, `ca` of this registry, is not there, or holds no certificates"
            )
            raise self.record.end(failure("tls", says)) from None
        return self._upstream

    # -- the way there

    async def _connection(self, home: Netloc) -> None:
        registry, timeout = self._registry, min(self._config.limits.connect_timeout, PATIENCE)
        parent = registry.parent
        if parent is not None and parent.leads_to(home.host, home.port):
            host, port, whose = parent.host, parent.port, "the parent (upstream_proxy)"
        else:
            host, port, whose = home.host, home.port, f"where {registry.name} is"
        self.record.step = "dns"
        addresses = await resolve(self._reactor, host, timeout)
        self.record.add(dns(host, addresses, whose))
        self.record.step = "tcp"
        self.record.add(await connect_each(self._reactor, addresses, port, timeout))
        self.record.step = "tls"
        self.record.add(*await reach(self._reactor, registry, home, timeout, self._time()))

    async def _ping(self, upstream: Upstream) -> Response:
        self.record.step = "ping"
        response = await upstream.request(b"GET", b"/v2/", [])
        response.discard()
        headers = headers_of(response)
        self.record.add(ping(response.status, headers), clock(headers, self._time()))
        return response

    def _time(self) -> datetime:
        return datetime.fromtimestamp(self._now(), UTC)

    # -- who we are

    def _challenges(self, answered: Response) -> None:
        """What the registry asks for, and whether who hands out tokens may be asked and told."""
        self.record.step = "challenge"
        if answered.status != 401:
            return
        asked = challenges_of(answered.headers)
        if not asked:
            says = "the registry says 401 without a WWW-Authenticate header that can be read"
            advice = "no client can log in to that; look at what is in front of the registry"
            raise self.record.end(failure("challenge", says, advice))
        self.record.add(ok("challenge", f"the registry asks for {' or '.join(map(_described, asked))}"))
        if bearers := bearer_challenges(asked):
            self._realm(bearers)

    def _realm(self, bearers: list[Challenge]) -> None:
        self.record.step = "realm"
        home, has_credential = home_of(self._registry), self._registry.auth is not None
        problem: AuthFailed | None = None
        for challenge in bearers:
            try:
                realm = judge_realm(challenge.parameters["realm"], home, registrable)
            except AuthFailed as error:
                problem = problem or error
                continue
            if has_credential and not realm.is_trusted:
                problem = problem or distrusted(realm, home)
                continue
            self.record.add(ok("realm", _trusted(realm, has_credential)), self._tunnel(realm))
            return
        advice = ""
        if registrable("registry.example") is None:
            advice = "python3-publicsuffix2, installed, tells regcachd which domains have one owner"
        if not has_credential:
            advice = "clients go there by themselves; without a token there is nothing further to look at from here"
            raise self.record.end(warning("realm", str(problem), advice))
        raise self.record.end(failure("realm", str(problem), advice))

    def _tunnel(self, realm: Realm) -> Finding | None:
        """Clients with a credential of their own go to the realm by a tunnel."""
        gets = decide(realm.authority, self._config.authorities, self._config.tunnel)
        if not isinstance(gets, Refuse):
            return None
        return warning("tunnel", f"clients are sent to {realm.authority} for tokens. {gets.reason}")

    async def _session(self, upstream: Upstream, answered: Response, reference: Reference | None) -> Session:
        """Get what the registry wants to see."""
        self.record.step = "token"
        auth = self._registry.auth
        scope = _scope(reference)
        try:
            authenticator = self._authenticator(upstream, auth.kind if auth else ANONYMOUS)
            header = await authenticator.authorization(challenges_of(answered.headers), scope)
        except (AuthFailed, SecretUnreadable) as error:
            is_refused = isinstance(error, AuthFailed) and error.refused
            if auth is None and is_refused:
                advice = (
                    "clients need a credential of their own; to look further from here, give regcachd one"
                )
                raise self.record.end(warning("token", str(error), advice)) from None
            advice = "look whether the credential is right, and has not ended" if is_refused else ""
            raise self.record.end(failure("token", str(error), advice)) from None
        self.record.add(_token(header, auth is not None, answered.status))
        if header is not None and header.startswith("Basic "):  # which nobody has looked at so far
            response = await upstream.request(b"GET", b"/v2/", [(b"Authorization", header.encode())])
            response.discard()
            if response.status in (401, 403):
                says = f"the registry refuses the credential (status {response.status})"
                raise self.record.end(failure("token", says, "look whether it is right, and has not ended"))
        return _session(upstream, authenticator, answered, self._reactor)

    def _authenticator(self, upstream: Upstream, kind: str) -> IAuthenticator:
        plugin = self._plugins[kind]
        auth = self._registry.auth
        keys = plugin.keys() if kind == ANONYMOUS or auth is None else auth.keys
        made: IAuthenticator = plugin.authenticator(
            keys, home_of(self._registry), Web(upstream, self._reactor), self._reactor
        )
        return made

    # -- an image

    def _sample(self, session: Session, reference: Reference) -> Sample:
        return Sample(session, self._registry, self._config.limits, reference, self.record)

    async def _for_everybody(self, upstream: Upstream, answered: Response, reference: Reference) -> None:
        """What clients get that bring no credential."""
        if self._registry.auth is None:
            self.record.add(clients(200, share=False, has_credential=False))
            return
        self.record.step = "clients"
        anybody = _session(upstream, self._authenticator(upstream, ANONYMOUS), answered, self._reactor)
        try:
            status = (await self._sample(anybody, reference).head()).status
        except CredentialRefused:
            status = 401
        self.record.add(clients(status, self._registry.share, has_credential=True))


def _session(upstream: Upstream, authenticator: IAuthenticator, answered: Response, clock: Any) -> Session:
    challenges = Challenges(upstream, clock)
    challenges.learn(answered)
    return Session(upstream, authenticator, challenges)


def _scope(reference: Reference | None) -> Scope:
    return Scope() if reference is None else Scope(reference.repository.name)


def _described(challenge: Challenge) -> str:
    if challenge.scheme != "bearer":
        return challenge.scheme.capitalize()
    return f"a token of {challenge.parameters.get('realm', 'nobody').partition('?')[0].rpartition('@')[2]}"


def _trusted(realm: Realm, has_credential: bool) -> str:
    if not has_credential:
        return f"{realm.authority.host} may be asked for tokens"
    return f"{realm.authority.host} may be asked for tokens, and told the credential"


def _token(header: str | None, is_own: bool, status: int) -> Finding | None:
    """What an authenticator has made of the challenges; its answer is a secret."""
    if header is None:
        if status == 401 and is_own:
            says = "the credential is of a kind that answers none of what the registry asks for"
            return failure("token", says, "look at `auth` of this registry")
        return None
    if header.partition(" ")[0].lower() == "bearer":
        return ok("token", f"a token is given {'for the credential' if is_own else 'to everybody'}")
    return ok("token", "the registry is shown the credential itself")
