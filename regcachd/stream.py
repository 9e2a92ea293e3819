"""A stream: one answer of upstream, and the stretch of the blob that it is to bring."""

from collections.abc import Callable

from attrs import define, field

from .http1 import Response, UpstreamFailed


@define(eq=False)
class Stream:
    """One answer of upstream, bringing the bytes from `at` on (http1.BodyConsumer)."""

    response: Response
    at: int
    stop: int | None
    """Where another's stretch begins; None for the end of the blob."""
    _take: Callable[[int, bytes], None]
    """Takes what has come: where it belongs, and the bytes."""
    _over: "Callable[[Stream, UpstreamFailed | None], None]"
    """Called once, when it brings no more; with what broke it, if anything has."""
    ended: bool = field(default=False, init=False)
    began: int = field(init=False)
    seen: int = field(default=-1, init=False)
    """How far it was when the speed was measured last."""
    final: int | None = field(init=False)
    """Where the answer ends, if upstream has said."""

    def __attrs_post_init__(self) -> None:
        self.began = self.at
        self.final = None if self.response.length is None else self.at + self.response.length

    def body_received(self, data: bytes) -> None:
        if self.ended:
            return
        if self.stop is not None and self.at + len(data) > self.stop:
            data = data[: self.stop - self.at]
        offset, self.at = self.at, self.at + len(data)
        self._take(offset, data)
        if self.at == self.stop and self.at != self.final:  # else body_done comes, and the connection is kept
            self.end(None)

    def body_done(self) -> None:
        self.end(None)

    def body_failed(self, error: UpstreamFailed) -> None:
        self.end(error)

    def end(self, error: UpstreamFailed | None) -> None:
        """It brings no more, for whatever reason."""
        if not self.ended:
            self.ended = True
            self.response.abandon()
            self._over(self, error)
