"""A blob on its way to one client: from the store, or from a file that grows.

What a client may have has been decided before; here it is only conditions (If-None-Match), ranges and the sending.
"""

from attrs import frozen
from twisted.logger import Logger

from .examine import discard, is_medium
from .freshness import matches
from .growing import FillFailed, Growing, StoreFailed
from .http1 import UpstreamFailed
from .partial import is_at
from .passing import bring_part, go_on_without_store
from .ranges import Part, Unsatisfiable, content_range, decide_range, unsatisfied_range
from .reference import Digest
from .registry import Shared
from .relay import VIA, cache_status, stream
from .sending import FileUnreadable
from .source import Source
from .store import OpenBlob
from .web import Request

log = Logger()

AHEAD = cache_status("fwd=partial")

FAR = 64 * 1024 * 1024
"""A range that begins so many bytes beyond what a fill has is fetched by itself."""


@frozen(eq=False)
class Delivery:
    """One blob for one request. `source` is asked for what the file turns out not to have."""

    _shared: Shared
    _request: Request
    _digest: Digest
    _source: Source

    async def send(self, file: OpenBlob | Growing, status: tuple[bytes, bytes]) -> None:
        """Answer the request; `status` is the Cache-Status. Raises UpstreamFailed."""
        request, digest = self._request, self._digest
        check_empty(digest, file.size)
        etag = f'"{digest}"'
        headers = [*describe(digest), status]
        if matches(request.header("if-none-match"), etag):
            request.begin(304, headers, None)
            request.finish()
            return
        start, stop, code = 0, file.size, 200
        if file.size is not None:
            headers.append((b"Accept-Ranges", b"bytes"))
            # for HEAD a Range means nothing (RFC 9110 section 14.2)
            wanted = request.header("range") if request.method == b"GET" else None
            part = decide_range(wanted, file.size, request.header("if-range"), etag)
            if isinstance(part, Unsatisfiable):
                unsatisfied = (b"Content-Range", unsatisfied_range(file.size).encode())
                request.answer_error(
                    416, "RANGE_INVALID", f"the blob has {file.size} bytes", [VIA, unsatisfied]
                )
                return
            if isinstance(part, Part):
                start, stop, code = part.start, part.stop, 206
                if isinstance(file, Growing) and start > file.watermark + FAR:
                    await stream(request, await self._source.open(start, stop), (AHEAD,))
                    return
                headers.append((b"Content-Range", content_range(part, file.size).encode()))
        request.begin(code, headers, None if stop is None else stop - start)
        if request.method != b"HEAD":
            if isinstance(file, OpenBlob):
                assert stop is not None
                try:
                    await request.send_file(file.fd, start, stop - start)
                except FileUnreadable as error:
                    await self._give_up(file, error)
                    raise
            elif not await self._follow(file, start, stop):
                return
        if isinstance(file, OpenBlob):
            self._shared.index.used(digest, self._shared.now())
        if not request.gone:
            request.finish()

    async def _give_up(self, blob: OpenBlob, error: FileUnreadable) -> None:
        """A stored blob cannot be read: whoever asks for it again, as this client will, gets it from upstream."""
        shared, digest = self._shared, self._digest
        path = shared.store.blob_path(digest)
        if (error.__cause__ is None or is_medium(error.__cause__)) and is_at(blob.fd, path):
            shared.index.remove([digest])
            try:
                await shared.in_thread(discard, shared.store, digest, str(error))
            except OSError as failed:
                log.error("{digest} cannot be removed: {why}", digest=str(digest), why=failed)

    async def _follow(self, growing: Growing, start: int, stop: int | None) -> bool:
        """Send a growing file, from `start` to `stop` or to its end; False when the response had to be cut."""
        request, shared = self._request, self._shared
        reader = growing.reader(start)
        request.when_gone(reader.stop_waiting)
        try:
            while stop is None or reader.position < stop or not stop:
                edge = await reader.edge()
                if stop is not None:
                    edge = min(edge, stop)
                if edge <= reader.position:
                    break  # verified, and nothing more comes
                await request.send_file(reader.fd, reader.position, edge - reader.position)
                reader.position = edge
        except FillFailed as error:
            if isinstance(error, StoreFailed) and not request.gone:
                shared.trouble.report(error)
                if start == 0 and stop == growing.total:
                    await go_on_without_store(
                        request, self._source, self._digest, reader.fd, reader.position, shared.in_thread
                    )
                else:
                    await bring_part(request, self._source, reader.position, stop)
            else:
                log.info("response cut short: {why}", why=error)
                request.cut()
                return False
        finally:
            reader.close()
        return True


def check_empty(digest: Digest, size: int | None) -> None:
    """A response without a body is complete with its head: nothing could be held back until the digest is right.

    Raises UpstreamFailed for one that would be wrong.
    """
    if size == 0 and Digest.of(b"", digest.algorithm) != digest:
        raise UpstreamFailed(f"upstream sent nothing for {digest}")


def describe(digest: Digest) -> list[tuple[bytes, bytes]]:
    """The headers of a blob, whoever has it."""
    named = str(digest).encode()
    return [
        (b"Content-Type", b"application/octet-stream"),
        (b"Docker-Content-Digest", named),
        (b"ETag", b'"' + named + b'"'),
        (b"Docker-Distribution-Api-Version", b"registry/2.0"),
        (b"Cache-Control", b"max-age=31536000"),
        VIA,
    ]
