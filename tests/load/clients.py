"""The clients of a load: threads that ask for random things until they are told to stop."""

from __future__ import annotations

import http.client
import random
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

from attrs import define, field

from tests.e2e.clients import connect
from tests.e2e.regcache import Daemon
from tests.load.content import REPOSITORY, Blob

PIECE = 64 * 1024
PATIENCE = 30.0
"""Seconds without a byte after which a client gives up."""


@define
class Tally:
    """What all clients have seen. `wrong` is what must not be; the rest is counted."""

    counts: Counter[str] = field(factory=Counter)
    bytes: int = 0
    wrong: list[str] = field(factory=list)
    _lock: threading.Lock = field(factory=threading.Lock)

    def count(self, what: str, size: int = 0) -> None:
        """Something has happened."""
        with self._lock:
            self.counts[what] += 1
            self.bytes += size

    def accuse(self, what: str) -> None:
        """Something has happened that must not."""
        with self._lock:
            self.wrong.append(what)


@define(eq=False)
class Client:
    """One client: `daemon` says whom to ask now, `go_on` whether."""

    source: random.Random
    blobs: Sequence[Blob]
    daemon: Callable[[], Daemon]
    go_on: Callable[[], bool]
    tally: Tally
    pause: Callable[[float], object]
    """Wait some seconds, less when it is over."""

    def run(self) -> None:
        """One request after the other."""
        while self.go_on():
            try:
                self.act()
            except (OSError, ssl.SSLError, http.client.HTTPException) as error:
                self.tally.count(_end(error))
                self.pause(0.05)

    def act(self) -> None:
        """One connection with a few requests."""
        connection = connect(self.daemon(), PATIENCE)
        try:
            for _ in range(self.source.randint(1, 4)):
                choice, blob = self.source.random(), self.source.choice(self.blobs)
                if choice < 0.05:
                    self.manifest(connection)
                elif choice < 0.15:
                    self.head(connection, blob)
                elif choice < 0.40 and not blob.poisoned and blob.data:
                    # of a poisoned one, nobody can know a part to be right before the whole has been there
                    start = self.source.randrange(len(blob.data))
                    stop = self.source.randrange(start, min(len(blob.data), start + 8 * 1024 * 1024)) + 1
                    self.get(connection, blob, start, stop)
                else:
                    self.get(connection, blob)
        finally:
            connection.close()

    def misses(self, blob: Blob) -> str | None:
        """Why it does not get this blob, whole and right; None if it does."""
        began = time.monotonic()
        connection = connect(self.daemon(), PATIENCE)
        try:
            connection.request("GET", blob.path)
            with connection.getresponse() as response:
                body, status = response.read(), response.getheader("Cache-Status")
                right = response.status == 200 and body == blob.data
                return None if right else f"{response.status}, {status}, {len(body)} bytes, {body[:200]!r}"
        except (OSError, http.client.HTTPException) as error:
            return f"{error!r} after {time.monotonic() - began:.1f} s"
        finally:
            connection.close()

    def manifest(self, connection: http.client.HTTPSConnection) -> None:
        """The tag, whatever it names."""
        connection.request("GET", f"/v2/{REPOSITORY}/manifests/latest")
        with connection.getresponse() as response:
            response.read()
        self.tally.count("manifests" if response.status == 200 else "refused")

    def head(self, connection: http.client.HTTPSConnection, blob: Blob) -> None:
        """HEAD, which has to know the size, if it knows anything."""
        connection.request("HEAD", blob.path)
        with connection.getresponse() as response:
            response.read()
        length = response.getheader("Content-Length")
        if response.status == 200 and length not in (None, str(len(blob.data))):
            self.tally.accuse(f"HEAD of {blob.digest} says {length} bytes")
        self.tally.count("heads" if response.status == 200 else "refused")

    def get(
        self,
        connection: http.client.HTTPSConnection,
        blob: Blob,
        start: int | None = None,
        stop: int | None = None,
    ) -> None:
        """GET, all or a part; now and then the client leaves in the middle, or reads on only after a while."""
        headers = {} if start is None or stop is None else {"Range": f"bytes={start}-{stop - 1}"}
        connection.request("GET", blob.path, headers=headers)
        with connection.getresponse() as response:
            if response.status in (200, 206):
                self.take(connection, response, blob, headers, start, stop)
            else:
                response.read()
                self.tally.count("refused")

    def take(
        self,
        connection: http.client.HTTPSConnection,
        response: http.client.HTTPResponse,
        blob: Blob,
        headers: dict[str, str],
        start: int | None,
        stop: int | None,
    ) -> None:
        """Read and judge the answer to a GET."""
        at, end = (start or 0, stop) if response.status == 206 else (0, None)
        end = len(blob.data) if end is None else end
        if response.status == 206:
            said = response.getheader("Content-Range")
            if said != f"bytes {at}-{end - 1}/{len(blob.data)}":
                self.tally.accuse(f"Content-Range {said} for {headers}")
        mood = self.source.random()
        turn = at + self.source.randint(0, end - at) if mood < 0.25 else None
        right = True
        while piece := response.read1(PIECE):
            right = right and piece == blob.data[at : at + len(piece)]
            if not right and not blob.poisoned:
                self.tally.accuse(f"wrong bytes of {blob.digest} after byte {at}")
                break
            at += len(piece)
            self.tally.bytes += len(piece)
            if not self.go_on():
                connection.close()
                return
            if turn is not None and at >= turn:
                if mood < 0.15:
                    self.tally.count("aborted by the client")
                    connection.close()
                    return
                turn = None
                self.tally.count("stalled by the client")
                self.pause(self.source.uniform(0.1, 2))
        if at < end and (response.length or not response.chunked):
            raise http.client.IncompleteRead(b"")
        if at < end:
            self.tally.accuse(f"a response of {blob.digest} ended well after {at} of {end} bytes")
        elif not right:
            self.tally.accuse(f"a complete response with wrong bytes of {blob.digest}")
        else:
            self.tally.count("parts, right" if response.status == 206 else "blobs, right")
        response.read()  # nothing, but it ends the response


def _end(error: Exception) -> str:
    """How to count an exchange that was broken off."""
    if isinstance(error, ConnectionRefusedError):
        return "not accepted"
    return "timed out" if isinstance(error, TimeoutError) else "broken off"
