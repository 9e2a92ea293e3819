"""Looking tags up: one question to upstream for all who ask at once, in all workers, and what is kept of its answer."""

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from attrs import define, field, frozen

from .access import Word
from .freshness import TagEntry, accepts, essence, is_fresh
from .manifest_source import ManifestSource
from .manifest_store import ManifestStore, WrongManifest, media_type_of
from .passage import NotConnected
from .reference import Digest, InvalidReference, Repository, Tag
from .registry import CachedRegistry
from .relay import Answer
from .requester import Requester
from .response import UpstreamFailed
from .singleflight import HURRY, SingleFlight
from .upstream import Unreachable

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred


@frozen
class Asked:
    """What a tag is asked for with: whoever asks the same may get the same. `accept` is an `accept_key`."""

    repository: Repository
    tag: Tag
    accept: str

    def __str__(self) -> str:
        return f"{self.repository}:{self.tag}"


@frozen
class Heard:
    """What upstream said to `requester`: what the tag names, if it said that plainly, and its answer, if there is one.

    Nobody is the requester when another worker has asked. A GET has no answer when the entry is still right.
    """

    requester: Requester | None
    entry: TagEntry | None
    answer: Answer | None = None
    failure: UpstreamFailed | None = None

    @property
    def has_failed(self) -> bool:
        """Has upstream said nothing about the tag?"""
        return self.answer is not None and (self.answer.status == 429 or self.answer.status >= 500)

    @property
    def is_for_all(self) -> bool:
        """Would upstream, as far as one can tell, have said the same to anybody? So it would if it is away."""
        error = self.failure
        is_away = error is not None and (isinstance(error, NotConnected | Unreachable) or error.status == 504)
        return self.entry is not None or is_away


_Key = tuple[bytes, Asked, Requester | None]


@define(eq=False)
class TagLookups:
    """The questions about one registry's tags that are under way."""

    _registry: CachedRegistry
    _store: ManifestStore
    _source: ManifestSource
    _flights: "SingleFlight[_Key, Heard]" = field(factory=SingleFlight)

    def life(self, asked: Asked) -> float | None:
        """For how many seconds upstream's word on this tag counts; None for never."""
        return self._registry.settings.tag_terms.life(asked.repository.name, str(asked.tag))

    async def run(self, method: bytes, asked: Asked, me: Requester, *, hurried: bool = False) -> Heard:
        """What upstream says to somebody who asks just now, if that is what the tag names; or else to `me`.

        `hurried` is who has something else to serve: it does not wait long for an upstream that hangs. Raises
        UpstreamFailed.
        """
        heard = await self._fly((method, asked, None), lambda: self._tried(method, asked, me), hurried)
        if heard.requester != me and not heard.is_for_all:
            return await self.run_for(method, asked, me, hurried=hurried)
        if heard.failure is not None:
            raise heard.failure
        return heard

    def run_for(
        self, method: bytes, asked: Asked, me: Requester, *, hurried: bool = False
    ) -> "Deferred[Heard]":
        """What upstream says to `me`, with an answer. Fails with UpstreamFailed."""
        return self._fly((method, asked, me), lambda: self._ask(method, asked, me, None), hurried)

    def _fly(
        self, key: "_Key", work: "Callable[[], Coroutine[Any, Any, Heard]]", hurried: bool
    ) -> "Deferred[Heard]":
        if hurried:
            return self._flights.run_within(HURRY, self._registry.shared.clock, key, work)
        return self._flights.run(key, work)

    async def _tried(self, method: bytes, asked: Asked, me: Requester) -> Heard:
        try:
            return await self._alone(method, asked, me)
        except WrongManifest:
            raise
        except UpstreamFailed as error:
            return Heard(me, None, failure=error)

    async def _alone(self, method: bytes, asked: Asked, me: Requester) -> Heard:
        """Ask, or wait for another worker that does."""
        commons, key = self._registry.shared.commons, f"tag {method.decode()} {asked} {asked.accept}"
        before = self._latest(method, asked)
        while not commons.claim(key):
            await commons.wait()
        try:
            latest = self._latest(method, asked)
            if latest is not None and (before is None or latest.checked > before.checked):
                return Heard(None, latest)
            return await self._ask(method, asked, me, self._entry(asked))
        finally:
            commons.release(key)

    async def _ask(self, method: bytes, asked: Asked, me: Requester, entry: TagEntry | None) -> Heard:
        known = entry if method == b"GET" and entry is not None and self._store.get(entry.digest) else None
        extra = [] if known is None else [(b"If-None-Match", f'"{known.digest}"'.encode())]
        now = self._registry.shared.now()
        answer = await self._source.ask(me, method, asked.repository, asked.tag, extra)
        if known is not None and answer.status == 304:
            self._registry.heard(
                me, asked.repository, Word.YES, now
            )  # 200 without it: RFC 9110 section 13.2.1
            return Heard(me, self._keep(asked, known.digest, known.media_type, known.size))
        if answer.status == 404:
            self._gone(asked, me)
        if answer.status != 200:
            return Heard(me, None, answer)
        if method == b"HEAD":
            return Heard(me, self._named(asked, answer), answer)
        answer, digest = await self._store.take(asked.repository, asked.tag, answer)
        if digest is None:
            return Heard(me, None, answer)
        return Heard(me, self._keep(asked, digest, media_type_of(answer), len(answer.body)), answer)

    # -- what is kept

    def _entry(self, asked: Asked, *, named: bool = False) -> TagEntry | None:
        return self._registry.shared.index.tags.get(asked.repository, asked.tag, asked.accept, named=named)

    def _latest(self, method: bytes, asked: Asked) -> TagEntry | None:
        """What answers such a request, and is the latest: a HEAD needs no more than a name."""
        named = self._entry(asked, named=True) if method == b"HEAD" else None
        return named or self._entry(asked)

    def named(self, asked: Asked) -> TagEntry | None:
        """What upstream, asked with HEAD, has named, and is not here; only while that counts."""
        named, life = self._entry(asked, named=True), self.life(asked)
        now = self._registry.shared.now()
        return (
            named if named is not None and life is not None and is_fresh(named.checked, life, now) else None
        )

    def _keep(
        self, asked: Asked, digest: Digest, media_type: str, size: int | None, *, named: bool = False
    ) -> TagEntry:
        shared = self._registry.shared
        entry = TagEntry(digest, media_type, shared.now(), size)
        shared.index.tags.set(asked.repository, asked.tag, asked.accept, entry, named=named)
        return entry

    def _named(self, asked: Asked, answer: Answer) -> TagEntry | None:
        """What an answer to HEAD says, if it does so plainly. Of what is stored only one with its size is a link."""
        named = answer.header(b"docker-content-digest")
        try:
            digest = Digest.parse("" if named is None else named.decode("latin-1").strip())
        except InvalidReference:
            return None
        stored = self._store.get(digest)
        if stored is None:
            if answer.length is None:
                return None
            return self._keep(asked, digest, media_type_of(answer), answer.length, named=True)
        is_of_type = essence(stored.media_type) == essence(media_type_of(answer))
        if answer.length not in (None, len(stored.body)) or not is_of_type:
            return None
        if answer.length is not None:
            self._registry.link(asked.repository, digest)
        return self._keep(asked, digest, media_type_of(answer), len(stored.body))

    def _gone(self, asked: Asked, me: Requester) -> None:
        """Upstream says that there is nothing; to those who cannot read the repository it may say so, too.

        It says so as well where there is only what the client does not accept: that takes nothing from the others.
        """
        proofs, table = self._registry.shared.proofs, self._registry.shared.index.tags
        if proofs.proved_at(asked.repository, me.proof) is None:
            return
        others = [
            k for k, e in table.all(asked.repository, asked.tag) if accepts([asked.accept], e.media_type)
        ]
        for key in {asked.accept, *others}:
            table.remove(asked.repository, asked.tag, key)
