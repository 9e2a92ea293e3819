"""Tags: names of manifests that move, of which upstream's last word is kept for every list of accepted media types.

What it says to one client serves all who ask meanwhile, and for as long as its word counts (tag_rules.py), but only
those who may read the repository: that is the access rule's question about the manifest, once its digest is known. Who
has never been seen to read it asks upstream in his own name, as he would were nothing known of the tag: neither what
upstream says of a digest, nor what is asked of it for that, may tell him of it.

    fresh        the entry is served
    not fresh    HEAD; the entry is served if the digest is still the same, or that manifest is here, too
    else         GET

When upstream is away, or says 429 or 5xx, or its limits are nearly used up (governor.py), an old entry serves up to
the age of `max_stale`. Once it is known to be away nobody waits for it: it is asked in the background. For one that
hangs nobody waits long who can have an old entry.
"""

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from .freshness import TagEntry, TagUse, accept_key, accept_line, essence, is_of_use, stands_in, use_of
from .manifest_source import ManifestSource
from .manifest_store import ManifestStore, WrongManifest, describe, not_modified
from .reference import Repository, Tag
from .registry import CachedRegistry, Question
from .relay import FORWARDED, HIT, IN_NEED, MISS, REVALIDATED, STALE, Answer
from .requester import Requester
from .response import UpstreamFailed
from .tag_lookups import Asked, TagLookups
from .units import roughly
from .web import Request

log = Logger()


@define(eq=False)
class Tags:
    """The tags of one registry."""

    _registry: CachedRegistry
    _store: ManifestStore
    _source: ManifestSource
    _lookups: TagLookups = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._lookups = TagLookups(self._registry, self._store, self._source)

    async def answer(self, request: Request, repository: Repository, tag: Tag) -> None:
        """GET or HEAD of a tag."""
        registry, now = self._registry, self._registry.shared.now()
        lines = request.lines("accept")
        asked = Asked(repository, tag, accept_key(lines))
        me = registry.requester(request).accepting(accept_line(lines))
        entry = self._known(asked)
        is_reader = registry.was_proved(me, repository)
        use = use_of(entry, self._lookups.life(asked), now) if is_reader else TagUse.FETCH
        if use is TagUse.REVALIDATE and self._lookups.named(asked) is not None:
            use = TagUse.FETCH
        if entry is not None and use is TagUse.SERVE and await self._serve(request, asked, me, entry, HIT):
            return
        spare = self._spare(request, asked)
        method = b"GET" if use is TagUse.FETCH and request.method == b"GET" else b"HEAD"
        if is_reader and spare is not None and (why := self._better_not(me, method)) is not None:
            log.info("{why}: {what} is served as it was", why=why, what=str(asked))
            if registry.upstream.outage is not None:
                Deferred.fromCoroutine(self._lookups.run(method, asked, me)).addErrback(_still_away)
            if await self._serve(request, asked, me, spare, IN_NEED):
                return
        try:
            if request.method == b"HEAD":
                failed = await self._head(request, asked, me, spare if is_reader else None)
            else:
                failed = await self._get(request, asked, me, use, spare if is_reader else None)
        except WrongManifest:
            raise
        except UpstreamFailed as error:
            if not await self._serve_spare(request, asked, me, spare, str(error)):
                raise self._with_age(asked, me, entry, error) from None
            return
        if failed is not None and not await self._serve_spare(
            request, asked, me, spare, f"it answered {failed.status}"
        ):
            failed.send(request, FORWARDED)

    # -- what is known

    def _known(self, asked: Asked) -> TagEntry | None:
        """What the tag named last; if that was only named, and the manifest has come since, it is an entry now."""
        table, now = self._registry.shared.index.tags, self._registry.shared.now()
        named = table.get(asked.repository, asked.tag, asked.accept, named=True)
        if named is not None and named.checked <= now:
            stored = self._store.get(named.digest)
            is_it = stored is not None and essence(stored.media_type) == essence(named.media_type)
            if stored is not None and is_it and len(stored.body) == named.size:
                table.set(asked.repository, asked.tag, asked.accept, named)
                return named
        return table.get(asked.repository, asked.tag, asked.accept)

    def _spare(self, request: Request, asked: Asked) -> TagEntry | None:
        """What may be served in need: the entry, or that of clients who accept something else, if it will do."""
        shared, most = self._registry.shared, self._registry.settings.tag_terms.max_stale
        now, lines = shared.now(), request.lines("accept")
        entries = shared.index.tags.all(asked.repository, asked.tag)
        own = [entry for key, entry in entries if key == asked.accept]
        others = [entry for key, entry in entries if stands_in(key, entry.media_type, lines)]
        for entry in (*own, *others):
            if is_of_use(entry, most, now) and self._store.get(entry.digest) is not None:
                return entry
        return None

    def _better_not(self, me: Requester, method: bytes) -> str | None:
        """Why upstream is better not waited for."""
        outage = self._registry.upstream.outage
        if outage is not None:
            return str(outage)
        hold = self._registry.restraint.hold(me.proof, method)
        return None if hold is None else f"{self._registry.settings.name} has said 429"

    # -- answers

    async def _serve(
        self, request: Request, asked: Asked, me: Requester, entry: TagEntry, status: tuple[bytes, bytes]
    ) -> bool:
        """Serve an entry to a client that may have it; False when upstream is to be asked. Raises Lapsed."""
        registry, stored = self._registry, self._store.get(entry.digest)
        if stored is None or essence(stored.media_type) != essence(entry.media_type):
            return False  # the type is not in the digest: it is what somebody has made of the same bytes elsewhere
        size = len(stored.body)
        question = Question("manifests", asked.repository, entry.digest, lambda: size, stored.media_type)
        right = await registry.right_of(me, question)
        if right is None:
            return False
        if status is HIT and right.is_stale:
            status = STALE
        if status is IN_NEED:
            registry.served_stale += 1
        self._store.send(request, entry.digest, stored, self._age(entry), status)
        return True

    async def _serve_spare(
        self, request: Request, asked: Asked, me: Requester, spare: TagEntry | None, why: str
    ) -> bool:
        """Serve what there is, since upstream has failed, and let HEAD promise no more. Raises Lapsed."""
        if spare is None:
            return False
        self._registry.shared.index.tags.unname(asked.repository, asked.tag, asked.accept)
        age = roughly(max(0.0, self._registry.shared.now() - spare.checked))
        log.warn(
            "upstream failed ({why}): {what} is served as it was {age} ago", why=why, what=str(asked), age=age
        )
        return await self._serve(request, asked, me, spare, IN_NEED)

    def _with_age(
        self, asked: Asked, me: Requester, entry: TagEntry | None, error: UpstreamFailed
    ) -> UpstreamFailed:
        """The error; it says that there is something too old, to those who may know."""
        if entry is None or not self._registry.was_proved(me, asked.repository):
            return error
        terms, past = self._registry.settings.tag_terms, self._registry.shared.now() - entry.checked
        if past < terms.max_stale:
            return error
        limit = roughly(terms.max_stale)
        return UpstreamFailed(
            f"{error}; the last good copy is {roughly(past)} old, and max_stale is {limit}", error.status
        )

    def _age(self, entry: TagEntry) -> tuple[bytes, bytes]:
        """RFC 9111 section 5.1."""
        return (b"Age", b"%d" % max(0.0, self._registry.shared.now() - entry.checked))

    async def _head(
        self, request: Request, asked: Asked, me: Requester, spare: TagEntry | None
    ) -> Answer | None:
        """Answer a HEAD by upstream's word. Returns an answer that is none. Raises UpstreamFailed."""
        named = self._lookups.named(asked)
        if named is not None and (
            await self._spared(request, asked, me, spare) or self._send_named(request, asked, me, named)
        ):
            return None
        heard = await self._lookups.run(b"HEAD", asked, me, hurried=spare is not None)
        if heard.entry is not None and (
            await self._serve(request, asked, me, heard.entry, REVALIDATED)
            or await self._spared(request, asked, me, spare)
        ):
            return None
        if heard.requester != me:
            if heard.entry is not None and self._send_named(request, asked, me, heard.entry):
                return None
            heard = await self._lookups.run_for(b"HEAD", asked, me)
        assert heard.answer is not None
        if heard.has_failed:
            return heard.answer
        if _tells_nothing(heard.answer):
            return await self._get(request, asked, me, TagUse.FETCH, spare)
        if heard.entry is None or not not_modified(
            request, heard.entry.digest, [*describe(heard.entry.digest), FORWARDED]
        ):
            heard.answer.send(request, FORWARDED)
        return None

    async def _spared(self, request: Request, asked: Asked, me: Requester, spare: TagEntry | None) -> bool:
        """Serve what there is where fetching something newer would take one of the last pulls, or is refused.

        HEAD does, too: a client that heard of the newer one would ask for that. Raises Lapsed.
        """
        if spare is None or not self._registry.restraint.spares(me.proof, b"GET"):
            return False
        log.info("few pulls are left, {what} is served as it was", what=str(asked))
        return await self._serve(request, asked, me, spare, IN_NEED)

    def _send_named(self, request: Request, asked: Asked, me: Requester, named: TagEntry) -> bool:
        """Answer a HEAD of what is not here; False when the client has not been seen to read the repository."""
        if named.size is None or not self._registry.is_proved(me, asked.repository):
            return False
        headers = [*describe(named.digest), self._age(named), HIT]
        if not request.gone and not not_modified(request, named.digest, headers):
            request.begin(200, [(b"Content-Type", named.media_type.encode("latin-1")), *headers], named.size)
            request.finish()
        return True

    async def _get(
        self, request: Request, asked: Asked, me: Requester, use: TagUse, spare: TagEntry | None
    ) -> Answer | None:
        """Answer a GET by upstream's word. Returns an answer that is none. Raises UpstreamFailed."""
        if use is TagUse.REVALIDATE:
            heard = await self._lookups.run(b"HEAD", asked, me, hurried=spare is not None)
            if heard.entry is not None and await self._serve(request, asked, me, heard.entry, REVALIDATED):
                return None
            if heard.has_failed and spare is not None:
                return heard.answer
        if await self._spared(request, asked, me, spare):
            return None
        heard = await self._lookups.run(b"GET", asked, me, hurried=spare is not None)
        if heard.requester != me or heard.answer is None:
            if heard.entry is not None and await self._serve(request, asked, me, heard.entry, REVALIDATED):
                return None
            heard = await self._lookups.run_for(b"GET", asked, me)
        assert heard.answer is not None
        if heard.has_failed:
            return heard.answer
        is_stored = heard.entry is not None
        if heard.entry is None or not not_modified(
            request, heard.entry.digest, [*describe(heard.entry.digest), MISS]
        ):
            heard.answer.send(request, MISS if is_stored else FORWARDED)
        return None


def _tells_nothing(answer: Answer) -> bool:
    """Is an answer to HEAD such that only a GET tells what the tag names?"""
    is_unnamed = answer.status == 200 and answer.header(b"docker-content-digest") is None
    return is_unnamed or answer.status == 405


def _still_away(failure: Failure) -> None:
    failure.trap(UpstreamFailed)
