"""Asking a registry for manifests, within the limits that it has set."""

import math

from attrs import define

from .manifest_store import WrongManifest
from .reference import Repository, Target
from .registry import CachedRegistry
from .relay import Answer, TooLarge, capture
from .requester import Requester
from .response import RawHeaders
from .web import JSON, error_body


@define(eq=False)
class ManifestSource:
    """Upstream, for manifests."""

    _registry: CachedRegistry

    async def ask(
        self,
        requester: Requester,
        method: bytes,
        repository: Repository,
        target: Target,
        extra: RawHeaders = (),
    ) -> Answer:
        """Upstream's whole answer, or, to who has just had 429, another one in its stead. Raises UpstreamFailed."""
        registry = self._registry
        limit, asked = registry.shared.limits.manifest_size, registry.shared.now()
        hold = registry.restraint.hold(requester.proof, method)
        if hold is not None:
            return _wait(registry.settings.name, hold)
        response = await requester.ask(method, "manifests", repository, target, extra)
        registry.heard_status(requester, repository, response, asked)
        try:
            answer = await capture(response, limit)
        except TooLarge as error:
            raise WrongManifest(
                f"the manifest {repository}:{target} is too large: {error} (limits.manifest_size)"
            ) from error
        registry.restraint.heard(requester.proof, method, answer, answer.body)
        return answer


def _wait(name: str, seconds: float) -> Answer:
    wait = max(1, math.ceil(seconds))
    message = f"{name} has had too many requests of yours, and is not asked for another {wait} s"
    headers = [(b"Content-Type", JSON), (b"Retry-After", b"%d" % wait)]
    return Answer(429, b"Too Many Requests", headers, error_body("TOOMANYREQUESTS", message))
