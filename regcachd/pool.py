"""The connections of one registry: those in use, and those that wait for the next request, by where they lead."""

import select
from typing import Any

from attrs import define, field

from .http1 import Http1Connection
from .netloc import Netloc

KEEP_IDLE = 55.0
"""Seconds an unused connection is kept: under the 60 s at which most servers close theirs."""
MOST_IDLE = 32
"""Unused connections kept for one host."""
SURELY_OPEN = 2.0
"""Seconds for which no server closes an unused connection, as far as can be known. What must not be sent twice goes
over one that has been used so lately, or over a new one."""


@define(eq=False)
class Pool:
    """Every connection is in it from `add` to `remove`; idle ones can be taken, the one used last first."""

    _reactor: Any
    connections: set[Http1Connection] = field(factory=set, init=False)
    idle: dict[Netloc, list[Http1Connection]] = field(factory=dict, init=False)
    _expiry: dict[Http1Connection, Any] = field(factory=dict, init=False)

    def add(self, connection: Http1Connection) -> None:
        """A new one, in use."""
        self.connections.add(connection)

    def take(self, netloc: Netloc) -> Http1Connection | None:
        """One that is idle; it may have died."""
        idle = self.idle.get(netloc)
        if not idle:
            return None
        connection = idle.pop()
        self._expiry.pop(connection).cancel()
        return connection

    def take_open(self, netloc: Netloc) -> Http1Connection | None:
        """One that upstream has surely not closed: a request that is not repeatable can be lost in no other way."""
        latest = self.idle.get(netloc, [])[-1:]
        if (
            not latest
            or self._expiry[latest[0]].getTime() - self._reactor.seconds() < KEEP_IDLE - SURELY_OPEN
        ):
            return None
        connection = self.take(netloc)
        if connection is not None and _has_news(connection.transport):
            connection.abandon()  # it is the end, or what nobody asked for
            return None
        return connection

    def put(self, netloc: Netloc, connection: Http1Connection) -> None:
        """One that is idle from now on."""
        idle = self.idle.setdefault(netloc, [])
        if len(idle) >= MOST_IDLE:
            connection.abandon()
            return
        idle.append(connection)
        self._expiry[connection] = self._reactor.callLater(KEEP_IDLE, self._expire, netloc, connection)

    def remove(self, netloc: Netloc, connection: Http1Connection) -> None:
        """It is lost, or about to be."""
        self.connections.discard(connection)
        if connection in self._expiry:
            expiry = self._expiry.pop(connection)
            if expiry.active():
                expiry.cancel()
            self.idle[netloc].remove(connection)
            if not self.idle[netloc]:
                del self.idle[netloc]

    def _expire(self, netloc: Netloc, connection: Http1Connection) -> None:
        self.remove(netloc, connection)  # at once, for it takes a turn of the reactor until it is lost
        connection.abandon()

    def expire_all(self, netloc: Netloc) -> None:
        """Close what is idle: the host has gone."""
        for connection in list(self.idle.get(netloc, ())):
            self._expire(netloc, connection)

    def expire_idle(self) -> None:
        """Close all that is idle."""
        for netloc in list(self.idle):
            self.expire_all(netloc)

    def close(self) -> None:
        """Close everything."""
        for connection in list(self.connections):
            connection.abandon()


def _has_news(transport: Any) -> bool:
    """Is there something to read on this connection, its end perhaps?"""
    poll = select.poll()
    poll.register(transport.fileno(), select.POLLIN)
    return bool(poll.poll(0))
