"""A registry: its upstream, and the one way in which everything asks whether a client may read what is stored.

The rule is in `access`; here its questions are asked. Each is asked once for all who wait for the answer, and what
upstream says is kept as evidence. A client that is refused gets upstream's answer to its own request, the same
whether what it asked for is stored or not.
"""

from collections.abc import Callable
from typing import Any

from attrs import define, field, frozen
from twisted.logger import Logger

from .access import Act, Evidence, Who, Word, decide_access, word_of
from .anonymity import Anonymity
from .authentication import Sessions
from .commons import Commons
from .config import Limits, Registry
from .disk import InThread
from .evidence import Credential, Private, Proofs
from .fills import Fills, Settings
from .freshness import essence
from .growing import Growing
from .http1 import Response, UpstreamFailed
from .index import Index
from .patience import Patience
from .recent import RecentManifests
from .reference import Digest, Repository
from .relay import Answer, asking, captured
from .requester import Bare, Kind, Requester, Stranger, anybody
from .restraint import Restraint
from .session import CredentialRefused, Session
from .silence import Silence
from .singleflight import HURRY, SingleFlight, TooSlow
from .source import is_page
from .store import Store
from .trouble import Trouble
from .units import roughly
from .upstream import BadRedirect, Unreachable, Upstream
from .web import Request

log = Logger()


@frozen
class Shared:
    """What all registries of a daemon share. Clocks are in seconds: `now` since the epoch."""

    store: Store
    index: Index
    fills: Fills
    trouble: Trouble
    proofs: Proofs
    anonymity: Anonymity
    commons: Commons
    recent: RecentManifests
    limits: Limits
    in_thread: InThread
    now: Callable[[], float]
    clock: Any
    """The reactor, for waiting."""


class Lapsed(UpstreamFailed):
    """Upstream does not answer, and its last yes to this client is too old. Who has been let in before may know."""


@frozen
class Right:
    """A client may read something: in the name of `requester`, who can also get more of it from upstream."""

    requester: Requester
    is_stale: bool
    """Is that by an old proof, because upstream is away?"""


@frozen
class Question:
    """What a client wants that is stored or comes in: a manifest if it has a `media_type`. `size` gives its bytes."""

    kind: Kind
    repository: Repository
    digest: Digest
    size: Callable[[], int | None] = field(eq=False)
    media_type: str | None = None


@frozen
class _Said:
    """Upstream's answer to a probe."""

    word: Word
    failure: UpstreamFailed | None = None


@define(eq=False)
class CachedRegistry:
    """One configured registry: its upstream, and what is known of its clients' rights."""

    shared: Shared
    upstream: Upstream
    _sessions: Sessions
    restraint: Restraint = field(init=False)
    served_stale: int = field(default=0, init=False)
    """How often something was served past its time because upstream failed."""
    _bare: Bare = field(init=False)
    _anybody: Requester = field(init=False)
    _shared_credential: Credential = field(init=False)
    _private: Private = field(factory=Private, init=False)
    _silence: Silence = field(factory=Silence, init=False)
    _probes: "SingleFlight[tuple[Question, Who, Credential], _Said]" = field(factory=SingleFlight, init=False)
    _answers: "SingleFlight[tuple[bytes, str | None, Question, Requester], Answer | None]" = field(
        factory=SingleFlight, init=False
    )

    def __attrs_post_init__(self) -> None:
        bulletin = self.shared.index.bulletin
        self.restraint = Restraint(self.settings.name, bulletin, self.shared.now)
        self._bare = Bare(self.upstream)
        self._anybody = anybody(self.anonymous)
        described = f"{self.settings.name} {self._describe_auth()}"
        self._shared_credential = self.shared.proofs.shared_credential(described)

    @property
    def settings(self) -> Registry:
        """Its configuration."""
        return self.upstream.registry

    @property
    def session(self) -> Session | None:
        """Requests on the configured credential, if there is one."""
        return self._sessions.own

    @property
    def anonymous(self) -> Session:
        """Requests as anybody."""
        return self._sessions.anonymous

    @property
    def fill_settings(self) -> Settings:
        """How fills from this registry are done."""
        settings = self.settings
        return Settings(
            Patience(settings.retries, longest_delay=settings.retry_delay),
            settings.connections,
            self.shared.limits.fill_abandon,
        )

    def repository(self, name: str) -> Repository:
        """A repository of this registry; `name` has been parsed by routes.py."""
        return Repository(self.settings.name, name)

    # -- who asks

    def session_for(self, request: Request) -> Session | None:
        """The session that a client without a credential shares, if regcachd's own is shared."""
        return self.session if self.settings.share and request.header("authorization") is None else None

    def stranger(self, request: Request) -> Stranger | None:
        """The way for a mirror's client without a credential."""
        is_one = request.is_mirrored and request.header("authorization") is None
        return Stranger(self.anonymous, self._bare) if is_one else None

    def requester(self, request: Request) -> Requester:
        """The client, as the one who asks."""
        headers, authorization = asking(request), request.header("authorization")
        if (session := self.session_for(request)) is not None:
            return Requester(Who.SHARED, self._shared_credential, headers, True, session)
        if (stranger := self.stranger(request)) is not None:
            return anybody(stranger, headers)
        standing = self.shared.anonymity.standing(authorization)
        if standing.is_anonymous:
            return Requester(Who.ANONYMOUS, standing.credential, headers, False, self._bare)
        return Requester(Who.OWN, standing.credential, headers, True, self._bare)

    def _describe_auth(self) -> str:
        """The daemon's own credential without its secrets: another one has other rights."""
        auth = self.settings.auth
        return "" if auth is None else f"{auth.kind} {auth.keys!r}"

    # -- evidence

    def heard(self, requester: Requester, repository: Repository, word: Word, asked: float) -> None:
        """Take upstream's answer to a request that was made at this time as evidence; NO means 401 or 403."""
        if word is Word.YES:
            terms, is_public = self.settings.terms, requester.who is Who.ANONYMOUS
            life = terms.public_ttl if is_public else terms.access_ttl
            self.shared.proofs.accept(repository, requester.proof, asked, life)
            if is_public:
                self._private.published(repository)
        elif word is Word.NO and requester.is_judged:
            self.shared.proofs.refuse(repository, requester.proof)
            if requester.who is Who.ANONYMOUS:
                self._private.refused(repository, None, asked)

    def heard_status(
        self, requester: Requester, repository: Repository, response: Response | Answer, asked: float
    ) -> None:
        """The same, from an answer to a client's own request."""
        word = word_of(response.status)
        if (word is Word.YES and not is_page(response)) or response.status in (401, 403):
            self.heard(requester, repository, word, asked)

    def link(self, repository: Repository, digest: Digest) -> None:
        """Upstream gives this digest from this repository. While a fill is under way that is only a promise."""
        growing = self.shared.fills.get(digest)
        if growing is not None and not growing.is_verified:
            self.promise(repository, growing)
        else:
            self.shared.index.link(repository, digest)

    def promise(self, repository: Repository, growing: Growing) -> None:
        """Upstream has begun to give what grows there from this repository."""
        index = self.shared.index
        if not index.linked(repository, growing.digest):
            growing.links.add(repository)
        index.link(repository, growing.digest)

    # -- the rule

    async def may_read(self, request: Request, me: Requester, question: Question) -> Right | Answer | None:
        """Apply the access rule to something that is stored or comes in; `me` is who makes the request.

        An Answer is upstream's no, for the client. None means that upstream says yes, but perhaps to something else
        than what we have: it has to serve the client itself. Raises UpstreamFailed when upstream does not answer.
        """
        act, right = await self._judged(me, question)
        if act in (Act.REFUSE, Act.FAIL):
            return await self._upstreams_answer(request, me, question)
        return right

    async def right_of(self, me: Requester, question: Question) -> Right | None:
        """The same for what the client has not named, such as the manifest of a tag: None whatever the reason is.

        Then upstream is to be asked what the client has asked. What it says of our question, or that it does not answer
        that, would tell that something is stored, and which. Raises Lapsed.
        """
        try:
            _, right = await self._judged(me, question)
        except Lapsed:
            raise
        except UpstreamFailed:
            return None
        return right

    async def _judged(self, me: Requester, question: Question) -> tuple[Act, Right | None]:
        """What to do, when all has been asked that may be. Raises UpstreamFailed."""
        heard: dict[Who, Word] = {}
        said = _Said(Word.AWAY)
        while True:
            evidence = self._evidence(me, question)
            decision = decide_access(evidence, self.settings.terms, heard, self.shared.now())
            asker = self._anybody if decision.who is Who.ANONYMOUS else me
            match decision.act:
                case Act.SERVE | Act.SERVE_STALE:
                    return decision.act, Right(asker, decision.act is Act.SERVE_STALE)
                case Act.ASK:
                    said = await self._probed(asker, question)
                    heard[decision.who] = said.word
                case Act.PASS | Act.REFUSE:
                    return decision.act, None
                case Act.FAIL:
                    self._fail(evidence, question, said)
                    return decision.act, None

    def is_proved(self, me: Requester, repository: Repository) -> bool:
        """May the requester read the repository, by what is known without asking?"""
        proofs = self.shared.proofs
        evidence = Evidence(
            linked=True,
            claim=me.who,
            claimed_at=proofs.proved_at(repository, me.proof),
            public_at=proofs.proved_at(repository, self._anybody.proof),
        )
        return decide_access(evidence, self.settings.terms, {}, self.shared.now()).act is Act.SERVE

    def was_proved(self, me: Requester, repository: Repository) -> bool:
        """Has the requester, or anybody, been seen to read the repository, however long ago?"""
        proofs = self.shared.proofs
        return any(proofs.proved_at(repository, each.proof) is not None for each in (me, self._anybody))

    def _evidence(self, me: Requester, question: Question) -> Evidence:
        proofs, repository = self.shared.proofs, question.repository
        return Evidence(
            linked=self.shared.index.linked(repository, question.digest),
            claim=me.who,
            claimed_at=proofs.proved_at(repository, me.proof),
            public_at=proofs.proved_at(repository, self._anybody.proof),
            is_private=self._private.is_known(repository, question.digest, self.shared.now()),
        )

    def _fail(self, evidence: Evidence, question: Question, said: _Said) -> None:
        """Raise what there is to say; only those who have been let in before are told about that."""
        if evidence.claimed_at is not None and evidence.linked:
            name, terms, is_public = self.settings.name, self.settings.terms, evidence.claim is Who.ANONYMOUS
            whom = "anybody" if is_public else "this client"
            life, key = (
                (terms.max_stale, "max_stale") if is_public else (terms.offline_grace, "offline_grace")
            )
            raise Lapsed(
                f"{said.failure or f'{name} fails'}; {name} last let {whom} read {question.repository.name} "
                f"{roughly(self.shared.now() - evidence.claimed_at)} ago, "
                f"and that counts for {roughly(life)} while it does not answer ({key})",
                503 if said.failure is None else said.failure.status,
            )
        if said.failure is not None:
            raise said.failure

    # -- asking upstream

    async def _probed(self, asker: Requester, question: Question) -> _Said:
        key = (question, asker.who, asker.credential)
        public_at = self.shared.proofs.proved_at(question.repository, self._anybody.proof)

        async def probe() -> _Said:
            return await self._probe(asker.probing(question.media_type), question)

        if asker is not self._anybody or public_at is None:
            return await self._probes.run(key, probe)
        try:  # what was public is taken to be so while upstream hangs; what is somebody's own, it has to say itself
            return await self._probes.run_within(HURRY, self.shared.clock, key, probe)
        except TooSlow as error:
            return _Said(Word.AWAY, error)

    async def _probe(self, asker: Requester, question: Question) -> _Said:
        """Ask upstream in somebody's name whether it gives what we have, and keep the answer."""
        asked, repository, digest = self.shared.now(), question.repository, question.digest
        failure = self.upstream.outage or self._silence.heard(asker, repository, asked)
        if failure is not None:
            return _Said(Word.AWAY, failure)
        try:
            # past the breaker, which others can open: what counts is whether upstream answers just this
            if question.kind == "blobs":
                response = await self.head_blob(asker, repository, digest, patient=True)
            else:
                response = await asker.ask(b"HEAD", question.kind, repository, digest, patient=True)
                response.discard()
        except (CredentialRefused, BadRedirect) as error:
            self.heard(asker, repository, Word.NO, asked)
            return _Said(Word.NO, error)
        except UpstreamFailed as error:
            if error.status == 400:
                raise  # what the client sent cannot be passed on
            if isinstance(error, Unreachable):
                return _Said(Word.BUSY, error)  # that was the breaker, at a ping of ours
            self._silence.note(asker, repository, self.shared.now(), error)
            return _Said(Word.AWAY, error)
        self.restraint.heard_elsewhere(asker.proof, response)
        word = word_of(response.status)
        linked = self.shared.index.linked(repository, digest)
        if word is Word.YES:
            word = self._looked_at(response, question, linked)
        if word is not Word.NO or response.status in (401, 403) or (response.status == 404 and linked):
            self.heard(asker, repository, word, asked)
        elif asker.who is Who.ANONYMOUS:
            self._private.refused(repository, digest, asked)
        return _Said(word)

    def _looked_at(self, response: Response, question: Question, linked: bool) -> Word:
        """Is a 2xx a yes to what we have? Only one with its size makes a link."""
        size, named = question.size(), response.header(b"docker-content-digest")
        encoded = response.header(b"content-encoding") not in (None, b"identity")
        if not _is_of_type(response, question.media_type):
            return (
                Word.UNSURE
            )  # the type is not in the digest: who pushed the same bytes elsewhere chose what is stored
        if response.status == 200 and not encoded and size is not None and response.length == size:
            self.link(question.repository, question.digest)
            return Word.YES
        unknown = response.length is None or size is None
        if linked and unknown and named is not None and named.decode("latin-1") == str(question.digest):
            return Word.YES
        log.warn(
            "{registry} says yes to {digest} in {repository}, but not to what is stored under that digest "
            "({length} bytes, not {size}): the client gets what upstream sends",
            registry=self.settings.name,
            digest=str(question.digest),
            repository=question.repository.name,
            length=response.length,
            size=size,
        )
        return Word.UNSURE

    async def head_blob(
        self, requester: Requester, repository: Repository, digest: Digest, patient: bool = False
    ) -> Response:
        """Upstream's word on a blob: a response without its body. Raises UpstreamFailed."""
        return await requester.head_blob(repository, digest, self.settings.blob_probe == "get", patient)

    async def _upstreams_answer(self, request: Request, me: Requester, question: Question) -> Answer | None:
        """What upstream answers to the client's own request; None if that is a yes after all. Raises UpstreamFailed."""
        method, accept = request.method, request.header("accept")

        async def ask() -> Answer | None:
            asked = self.shared.now()
            if question.kind == "blobs" and method == b"HEAD":
                response = await self.head_blob(me, question.repository, question.digest)
            else:
                response = await me.ask(method, question.kind, question.repository, question.digest)
            self.heard_status(me, question.repository, response, asked)
            if 200 <= response.status < 300:
                response.discard()
                return None
            return await captured(response)

        return await self._answers.run((method, accept, question, me), ask)


def _is_of_type(response: Response, media_type: str | None) -> bool:
    """Is a manifest what we take it for, as far as upstream says?"""
    named = response.header(b"content-type")
    return media_type is None or named is None or essence(named.decode("latin-1")) == essence(media_type)
