"""Checkups of registries, as regcachctl asks for them: which registry is meant, and how long one may take."""

from collections.abc import Callable
from typing import Any

from attrs import define, evolve
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as Late

from .admin import BadCommand, Command, Document
from .authentication import Plugins
from .checkup import PATIENCE, Checkup
from .config import Config, Registry
from .connect import Authority, HeadError
from .finding import Finding, failure, worst

LONGEST = 50.0
"""Seconds of a checkup."""


@define(eq=False)
class Checkups:
    """Looks at the registries of the configuration that holds. `now` gives seconds since the epoch."""

    _reactor: Any
    _config: Callable[[], Config]
    _plugins: Plugins
    _now: Callable[[], float]

    def commands(self) -> tuple[Command, ...]:
        """For the admin socket."""
        return (Command("POST", "/check-upstream", self.run),)

    async def run(self, document: Document) -> Document:
        """Look at `registry`, and at `image` if that is not null. Raises BadCommand."""
        name, image = document.get("registry"), document.get("image")
        if not isinstance(name, str) or not isinstance(image, str | None):
            raise BadCommand('expected {"registry": "NAME", "image": "NAME" or null}')
        registry = self._named(name)
        findings = [self._unknown(name)] if registry is None else await self._look(registry, image)
        return {
            "registry": name if registry is None else registry.name,
            "image": image,
            "outcome": worst(findings),
            "findings": [each.document() for each in findings],
        }

    def _named(self, name: str) -> Registry | None:
        """The registry of this name, or that clients ask for by this host."""
        written = name.removeprefix("https://").removesuffix("/")
        config = self._config()
        if written in config.registries:
            return config.registries[written]
        try:
            known = config.authorities.get(Authority.parse(written, 443))
        except HeadError:
            return None
        return None if known is None else config.registries[known]

    def _unknown(self, name: str) -> Finding:
        return failure(
            "name",
            f"{name} is none of the registries that are cached: {', '.join(sorted(self._config().registries))}",
            "add a table for it to the configuration and reload regcachd; once one registry is named there, only "
            "those that are named are cached",
        )

    async def _look(self, registry: Registry, image: str | None) -> list[Finding]:
        patient = evolve(registry, timeout=min(registry.timeout, PATIENCE))
        checkup = Checkup(self._reactor, self._config(), patient, self._plugins, self._now)
        looking = Deferred.fromCoroutine(checkup.run(image)).addTimeout(LONGEST, self._reactor)
        try:
            await looking
        except Late:
            says = f"not through after {LONGEST:g} s; that is as far as the checkup came"
            checkup.record.end(failure(checkup.record.step, says, "whatever this step asks is too slow"))
        finally:
            checkup.close()
        return checkup.record.findings
