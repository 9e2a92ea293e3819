"""The access rule with its evidence, under whatever clients, upstream and the clock do: a state machine.

CachedRegistry, Proofs and the index are the real ones. Upstream is a model that keeps a ledger of what it has said, and
what is served must be covered by that.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

from attrs import define, field
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.web.http_headers import Headers

from regcachd.anonymity import Anonymity
from regcachd.authentication import Sessions, find_plugins, kinds_of
from regcachd.commons import Commons
from regcachd.config import Limits, Registry, parse_config
from regcachd.evidence import KEY_SIZE, Proofs
from regcachd.fills import Fills
from regcachd.http1 import RawHeaders, Response, UpstreamFailed
from regcachd.index import Index
from regcachd.interfaces import Scope
from regcachd.recent import RecentManifests
from regcachd.reference import Digest, Repository
from regcachd.registry import CachedRegistry, Question, Right, Shared
from regcachd.relay import Answer
from regcachd.store import Store
from regcachd.trouble import Trouble

NAME = "registry.test"
REPOSITORIES = [Repository(NAME, name) for name in ("alice/app", "bob/app")]
DIGESTS = [Digest.of(b"a layer")]
SIZE, OTHER_SIZE = 1000, 999
"""Bytes of what is stored here under every digest, and of what a hostile registry may have there."""
USERS = ["alice", "bob"]
ANYBODY, OWN = "anybody", "the cache itself"
ACCESS_TTL, PUBLIC_TTL, GRACE = 300.0, 3600.0, 86400.0


@define
class Model:
    """An upstream: who may read what, what there is, and a ledger of what it has said."""

    registry: Registry
    wants_tokens: bool
    """Does it refuse those who show nothing, even of what is public?"""
    now: float = 1e6
    state: str = "up"
    readers: set[tuple[str, str]] = field(factory=set)
    content: dict[tuple[str, str], int] = field(factory=dict)
    links: set[tuple[str, str]] = field(factory=set)
    """It has given this digest from this repository."""
    yes: dict[tuple[str, str], float] = field(factory=dict)
    """When it last said yes to whom about which repository, if it has not said no since."""
    outage: None = None

    def allows(self, who: str, repository: str) -> bool:
        return (ANYBODY, repository) in self.readers or (who, repository) in self.readers

    def says(self, who: str, target: str, *, is_bare: bool = False) -> Response:
        if self.state == "down":
            raise UpstreamFailed("it is away")
        if self.state in ("429", "503"):
            return response(int(self.state))
        repository, digest = target.removeprefix("/v2/").split("/blobs/")
        if not self.allows(who, repository) or (is_bare and self.wants_tokens):
            if not is_bare:
                self.yes.pop((who, repository), None)
            return response(403)
        size = self.content.get((repository, digest))
        if size is None:
            return response(404)
        self.yes[who, repository] = self.now
        if size == SIZE:
            self.links.add((repository, digest))
        return response(200, size)

    async def request(self, method: bytes, target: bytes, headers: RawHeaders, **how: object) -> Response:
        """As Upstream: what a client asks in its own name."""
        who = next((v.decode().removeprefix("Bearer ") for n, v in headers if n == b"Authorization"), None)
        return self.says(who or ANYBODY, target.decode(), is_bare=who is None)


def response(status: int, size: int = 0) -> Response:
    """A response without its body."""
    return Response(status, b"", [(b"Content-Type", b"application/octet-stream")], size, None)


@define
class Way:
    """A session with the model, in one name."""

    model: Model
    who: str

    async def request(
        self, method: bytes, target: bytes, headers: RawHeaders, *, scope: Scope, **how: object
    ) -> Response:
        return self.model.says(self.who, target.decode())


@define
class Asking:
    """A client's request, as far as the rule looks at it."""

    authorization: str | None
    method: bytes
    is_mirrored = False

    @property
    def requestHeaders(self) -> Headers:
        return Headers(
            {} if self.authorization is None else {b"Authorization": [self.authorization.encode()]}
        )

    def header(self, name: str) -> str | None:
        return self.authorization if name == "authorization" else None


def result(asked: Any) -> Any:
    """What comes of a coroutine that waits for nothing."""
    outcome: list[Any] = []
    Deferred.fromCoroutine(asked).addBoth(outcome.append)
    return outcome[0]


Case = tuple[str | None, Repository, Digest]

repositories = st.sampled_from(REPOSITORIES)
digests = st.sampled_from(DIGESTS)
clients = st.sampled_from([None, *USERS])
names = st.sampled_from([ANYBODY, OWN, *USERS])


class Access(RuleBasedStateMachine):
    """No bytes of a digest for anybody to whom, for this repository, upstream does not say yes, or has not lately."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.key = os.urandom(KEY_SIZE)
        self.index = Index(Path(self.directory.name) / "index")

    def teardown(self) -> None:
        self.index.close()
        self.directory.cleanup()

    @initialize(share=st.booleans(), wants_tokens=st.booleans())
    def begin(self, share: bool, wants_tokens: bool) -> None:
        text = f'[registries."{NAME}"]\nusername = "robot"\npassword = "file:/none"\nshare = {str(share).lower()}'
        config = parse_config([("a.toml", text)], kinds_of(find_plugins()))
        self.model = Model(config.registries[NAME], wants_tokens)
        self.share = share
        self.latest: Case = ("alice", REPOSITORIES[0], DIGESTS[0])
        for repository, user in zip(REPOSITORIES, USERS, strict=True):
            self.model.readers.add((user, repository.name))
            for digest in DIGESTS:
                self.model.content[repository.name, str(digest)] = SIZE
        self.open()

    def open(self) -> None:
        """A daemon, on the index that there is."""
        self.index.open()
        clock, store, proofs = Clock(), Store(Path(self.directory.name)), Proofs(self.index, self.key)
        upstream: Any = self.model
        nothing: Any = None
        shared = Shared(
            store=store,
            index=self.index,
            fills=Fills(clock, store, nothing, nothing, nothing),
            trouble=Trouble(clock.seconds),
            proofs=proofs,
            anonymity=Anonymity(self.index.bulletin, proofs, self.now),
            commons=Commons(self.index.bulletin, clock, self.now),
            recent=RecentManifests(),
            limits=Limits(),
            in_thread=nothing,
            now=self.now,
            clock=clock,
        )
        sessions: Any = Sessions(Way(self.model, ANYBODY), Way(self.model, OWN))  # type: ignore[arg-type]
        self.registry = CachedRegistry(shared, upstream, sessions)

    def now(self) -> float:
        return self.model.now

    # -- what happens

    @rule(who=names, repository=repositories)
    def grant(self, who: str, repository: Repository) -> None:
        self.model.readers.add((who, repository.name))

    @rule(who=names, repository=repositories)
    def revoke(self, who: str, repository: Repository) -> None:
        self.model.readers.discard((who, repository.name))

    @rule(repository=repositories, digest=digests, size=st.sampled_from([None, SIZE, OTHER_SIZE]))
    def change(self, repository: Repository, digest: Digest, size: int | None) -> None:
        """Content comes and goes, and somebody's own may claim a digest that it has not."""
        self.model.content.pop((repository.name, str(digest)), None)
        if size is not None:
            self.model.content[repository.name, str(digest)] = size

    @rule(state=st.sampled_from(["up", "up", "down", "429", "503"]))
    def turn(self, state: str) -> None:
        self.model.state = state

    @rule(
        seconds=st.sampled_from([1.0, 74.0, 76.0, 299.0, 300.0, 600.0, 3600.0, 86000.0, 86400.0, 3e6, -500.0])
    )
    def wait(self, seconds: float) -> None:
        """Or set the clock back."""
        self.model.now += seconds

    @rule()
    def restart(self) -> None:
        self.index.close()
        self.open()

    @rule(client=clients, repository=repositories, digest=digests)
    def pull(self, client: str | None, repository: Repository, digest: Digest) -> None:
        """A download, of what is not stored: upstream's answer is all there is."""
        self.latest = (client, repository, digest)
        me, asked = self.registry.requester(self.asking(client, b"GET")), self.model.now
        answered = result(me.ask(b"GET", "blobs", repository, digest))
        if isinstance(answered, Response):
            self.registry.heard_status(me, repository, answered, asked)
            if answered.status == 200 and answered.length == SIZE:
                self.registry.link(repository, digest)

    @rule()
    def pull_again(self) -> None:
        """The same client, the same layer."""
        self.pull(*self.latest)

    @rule(method=st.sampled_from([b"GET", b"HEAD"]))
    def read_again(self, method: bytes) -> None:
        self.read(*self.latest, method)

    @rule()
    def revoke_latest(self) -> None:
        self.model.readers.discard((self.latest[0] or ANYBODY, self.latest[1].name))

    @rule(client=clients, repository=repositories, digest=digests, method=st.sampled_from([b"GET", b"HEAD"]))
    def read(self, client: str | None, repository: Repository, digest: Digest, method: bytes) -> None:
        """A request for what is stored."""
        self.latest = (client, repository, digest)
        question = Question("blobs", repository, digest, lambda: SIZE)
        request = self.asking(client, method)
        found = result(self.registry.may_read(request, self.registry.requester(request), question))
        model, where = self.model, repository.name
        own = client if client is not None else OWN if self.share else ANYBODY
        if isinstance(found, Right):
            assert (where, str(digest)) in model.links, "upstream never gave this from there"
            assert self.is_covered(own, where, is_stale=found.is_stale)
        elif isinstance(found, Answer):
            assert found.status >= 400
        if model.state == "up" and own != ANYBODY and model.allows(own, where):
            # who has the right is served, here or by upstream itself, unless it is not there
            assert not isinstance(found, Answer) or (where, str(digest)) not in model.content

    def asking(self, client: str | None, method: bytes) -> Any:
        return Asking(None if client is None else f"Bearer {client}", method)

    def is_covered(self, own: str, repository: str, *, is_stale: bool) -> bool:
        """By a yes to this client, or to anybody, that is young enough."""
        lives = {ANYBODY: PUBLIC_TTL, own: PUBLIC_TTL if own == ANYBODY else ACCESS_TTL}
        if is_stale:
            assert self.model.state != "up"
            lives = {ANYBODY: 30 * 86400.0}
            if own == OWN or (own != ANYBODY and self.model.state != "429"):
                lives[own] = GRACE
        return any(
            0 <= self.model.now - self.model.yes[who, repository] < life
            for who, life in lives.items()
            if (who, repository) in self.model.yes
        )


Access.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAccess = Access.TestCase
