"""Manifests as clients ask for them: by digest, immutable and from the store; or by tag, for which see tags.py."""

from attrs import define, field

from .manifest_source import ManifestSource
from .manifest_store import ManifestStore, describe, not_modified
from .reference import Digest, Repository, Target
from .registry import CachedRegistry, Question
from .relay import FORWARDED, HIT, MISS, STALE, Answer
from .requester import Requester
from .singleflight import SingleFlight
from .tags import Tags
from .web import Request

_Asked = tuple[Repository, Digest, str | None, Requester]


@define(eq=False)
class Manifests:
    """The manifest endpoint of one registry."""

    _registry: CachedRegistry
    _store: ManifestStore = field(init=False)
    _source: ManifestSource = field(init=False)
    _tags: Tags = field(init=False)
    _fetches: "SingleFlight[_Asked, Answer | None]" = field(factory=SingleFlight)

    def __attrs_post_init__(self) -> None:
        self._store = ManifestStore(self._registry)
        self._source = ManifestSource(self._registry)
        self._tags = Tags(self._registry, self._store, self._source)

    async def answer(self, request: Request, name: str, target: Target) -> None:
        """GET or HEAD of a manifest."""
        repository = self._registry.repository(name)
        if not isinstance(target, Digest):
            await self._tags.answer(request, repository, target)
            return
        me = self._registry.requester(request)
        while not (request.gone or await self._served(request, me, repository, target)):
            if request.method == b"HEAD":
                answer = await self._source.ask(me, b"HEAD", repository, target)
                described = [*describe(target), FORWARDED]
                if answer.status != 200 or not not_modified(request, target, described):
                    answer.send(request, FORWARDED)
                return
            if await self._fetched(request, me, repository, target):
                return

    async def _served(self, request: Request, me: Requester, repository: Repository, digest: Digest) -> bool:
        """Serve what is stored, if the client may have it; False when upstream has to serve the client."""
        stored = self._store.get(digest)
        if stored is None:
            return False
        size = len(stored.body)
        question = Question("manifests", repository, digest, lambda: size, stored.media_type)
        right = await self._registry.may_read(request, me, question)
        if isinstance(right, Answer):
            right.send(request, FORWARDED)
        elif right is not None:
            self._store.send(request, digest, stored, STALE if right.is_stale else HIT)
        return right is not None

    async def _fetched(self, request: Request, me: Requester, repository: Repository, digest: Digest) -> bool:
        """Have upstream serve it; False when another worker has stored it meanwhile."""
        answer = await self._fetches.run(
            (repository, digest, request.header("accept"), me),
            lambda: self._download(repository, digest, me),
        )
        if answer is None:
            return False
        if answer.status != 200:
            answer.send(request, FORWARDED)
        elif not not_modified(request, digest, [*describe(digest), MISS]):
            answer.send(request, MISS)
        return True

    async def _download(self, repository: Repository, digest: Digest, requester: Requester) -> Answer | None:
        """Upstream's answer; None when another worker has asked for the same, and stored it."""
        commons, key = self._registry.shared.commons, f"manifest {repository}@{digest}"
        has_waited = False
        while not commons.claim(key):
            await commons.wait()
            has_waited = True
        try:
            if has_waited and self._store.get(digest) is not None:
                return None
            answer = await self._source.ask(requester, b"GET", repository, digest)
            if answer.status == 200:
                answer, _ = await self._store.take(repository, digest, answer)
            return answer
        finally:
            commons.release(key)
