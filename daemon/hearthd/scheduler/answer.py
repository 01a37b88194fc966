"""What a runner says to one request, from the socket to whoever waits for it."""

from __future__ import annotations

import asyncio
from collections import deque

from hearthd.engine.frames import Done, Embedded, Failed, Piece, Tokens, Trimmed
from hearthd.errors import BadRequest, HearthError, NotFound, TooLarge

MAX_PENDING_FRAMES = 4096  # sent by the runner and not yet taken
MAX_PENDING_CHARACTERS = 1 << 20

Reply = Piece | Done | Embedded | Failed | Tokens | Trimmed
LAST = (Done, Embedded, Failed, Tokens, Trimmed)  # nothing follows these


class Answer:
    """Frames of one request, of the given kinds or Failed."""

    __slots__ = ("_characters", "_error", "_frames", "_kinds", "_waiter")

    def __init__(self, *kinds: type[Reply]) -> None:
        self._kinds = (*kinds, Failed)
        self._frames: deque[Reply] = deque()
        self._characters = 0
        self._error: HearthError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def expects(self, frame: Reply) -> bool:
        """Whether a frame of that kind answers the request."""
        return isinstance(frame, self._kinds)

    def put(self, frame: Reply) -> bool:
        """Whether there was room for it."""
        if isinstance(frame, Piece):
            self._characters += len(frame.text)
        self._frames.append(frame)
        self._wake()
        return self._characters <= MAX_PENDING_CHARACTERS and len(self._frames) <= MAX_PENDING_FRAMES

    def fail(self, error: HearthError) -> None:
        """Ends it with `error`, behind the frames that are here already."""
        if self._error is None:
            self._error = error
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def take(self) -> Reply:
        """The next frame; those that came before a failure come first. Raises HearthError."""
        while not self._frames:
            if self._error is not None:
                raise self._error
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
            self._waiter = None
        frame = self._frames.popleft()
        if isinstance(frame, Piece):
            self._characters -= len(frame.text)
        elif isinstance(frame, Failed):
            raise _as_error(frame)
        return frame


def _as_error(failed: Failed) -> HearthError:
    kind = {400: BadRequest, 404: NotFound, 413: TooLarge}.get(failed.status, HearthError)
    return kind(failed.message)
