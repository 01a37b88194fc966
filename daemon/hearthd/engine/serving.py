"""The work of a runner whose model is loaded.

The main thread owns the model and the batch. One thread takes frames from the socket, so that a Cancel is seen, and a
Ping answered, while a step runs; others encode prompts and compile grammars, so that running streams do not wait for
them; one answers Tokenize. All hand their results to the main thread's inbox.
"""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from hearthd.engine.batch import failure
from hearthd.engine.channel import Channel, Closed
from hearthd.engine.encoding import Encoding
from hearthd.engine.frames import (
    Cancel,
    Embed,
    Failed,
    Generate,
    Leave,
    Load,
    Ping,
    Pong,
    Tokenize,
    Tokens,
    Trim,
    Trimmed,
)
from hearthd.engine.reading import Reading
from hearthd.engine.sequence import Sequence
from hearthd.engine.tokens import Tokenizer
from hearthd.engine.trimming import release_freed, resident_bytes, trim

WITHOUT_WEIGHTS = (
    "the model was loaded with vocab_only, without its weights: it can count tokens but not answer; "
    "leave the option out to load it whole"
)
IDLE_S = 5.0  # until pages leave that a file can give again; the step that fetches them back takes 1 to 5 ms longer

Work = Sequence | Reading | Encoding | Failed | Cancel | Trim | Leave
Inbox = SimpleQueue[Work]


class Preparation(Protocol):
    """Makes requests ready to be worked on, beside the main thread."""

    def prepared(self, request: Generate | Embed) -> Any:
        """What `Requests.enter` takes. Raises whatever is wrong with the request."""


class Requests(Protocol):
    """A model's work: Batch for a decoder, Encodings for an encoder. The main thread calls it."""

    @property
    def preparation(self) -> Preparation:
        """Its own."""

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""

    def enter(self, prepared: Any) -> None:
        """Queues what was prepared."""

    def cancel(self, request_id: int) -> None:
        """Ends the request at once; one that is unknown or has ended is left alone."""

    def step(self) -> None:
        """Works for a moment."""

    def trim(self) -> None:
        """Gives back what no running request needs."""

    def save(self) -> None:
        """Keeps what shall outlive the process."""


class Clock:
    """How long the step under way has taken; the main thread sets it, another one reads it."""

    def __init__(self) -> None:
        self._began_ns = 0

    def start(self) -> None:
        """A step begins."""
        self._began_ns = time.monotonic_ns()

    def stop(self) -> None:
        """Nothing is under way."""
        self._began_ns = 0

    @property
    def busy_ns(self) -> int:
        """Nanoseconds; 0 where nothing is under way."""
        began_ns = self._began_ns
        return time.monotonic_ns() - began_ns if began_ns else 0


class Intake:
    """Requests on their way from the socket to the batch."""

    def __init__(self, preparation: Preparation, inbox: Inbox) -> None:
        self._preparation = preparation
        self._inbox = inbox
        self._underway: set[int] = set()
        self._cancelled: set[int] = set()
        self._plain: SimpleQueue[Generate | Embed] = SimpleQueue()
        self._constrained: SimpleQueue[Generate | Embed] = SimpleQueue()  # a costly schema holds up only its like
        for queue in (self._plain, self._constrained):
            start_thread(self._prepare, queue)

    def put(self, request: Generate | Embed) -> None:
        """Has a request prepared; the thread that takes frames calls it."""
        self._underway.add(request.id)
        is_plain = isinstance(request, Embed) or request.grammar is None
        (self._plain if is_plain else self._constrained).put(request)

    def cancel(self, request_id: int) -> bool:
        """Whether it is still being prepared; it is then cancelled when it arrives."""
        if request_id in self._underway:
            self._cancelled.add(request_id)
            return True
        return False

    def arrived(self, request_id: int) -> bool:
        """Notes that the main thread has a request now; whether it was cancelled meanwhile."""
        self._underway.discard(request_id)
        was_cancelled = request_id in self._cancelled
        self._cancelled.discard(request_id)
        return was_cancelled

    def _prepare(self, queue: SimpleQueue[Generate | Embed]) -> None:
        while True:
            request = queue.get()
            try:
                self._inbox.put(self._preparation.prepared(request))
            except Exception as error:
                self._inbox.put(failure(request.id, error))


def serve(channel: Channel, batch: Requests, tokenizer: Tokenizer, num_ctx: int) -> None:
    """Works until the channel closes or the daemon says Leave. Raises Closed."""
    inbox, clock = Inbox(), Clock()
    intake = Intake(batch.preparation, inbox)
    start_thread(take_frames, channel, intake.put, inbox, answering_texts(channel, tokenizer, num_ctx), clock)
    while True:
        if batch.idle:
            take(channel, batch, intake, next_work(inbox))
        while not inbox.empty():
            take(channel, batch, intake, inbox.get_nowait())
        if not batch.idle:
            clock.start()
            batch.step()
            clock.stop()


def next_work(inbox: Inbox) -> Work:
    """What comes next. A runner without work gives back what was freed, and soon what files can give again."""
    if inbox.empty():
        release_freed()
    try:
        return inbox.get(timeout=IDLE_S)
    except Empty:
        trim()
        return inbox.get()


def serve_vocabulary(channel: Channel, tokenizer: Tokenizer, num_ctx: int) -> None:
    """As `serve`, for a model without weights: it counts tokens and refuses the rest. Raises Closed."""
    inbox = Inbox()

    def refuse(request: Generate | Embed) -> None:
        channel.send(Failed(request.id, WITHOUT_WEIGHTS, 400))

    start_thread(take_frames, channel, refuse, inbox, answering_texts(channel, tokenizer, num_ctx), Clock())
    while not isinstance(work := inbox.get(), Leave):
        if isinstance(work, Trim):
            channel.send(Trimmed(work.id, trim(work.level)))
    raise Closed


def take(channel: Channel, batch: Requests, intake: Intake, work: Work) -> None:
    """Does what the inbox held. Raises Closed at Leave."""
    match work:
        case Sequence() | Reading() | Encoding():
            batch.enter(work)
            if intake.arrived(work.id):
                batch.cancel(work.id)
        case Failed():
            intake.arrived(work.id)
            channel.send(work)
        case Cancel():
            if not intake.cancel(work.id):
                batch.cancel(work.id)
        case Trim():
            before = resident_bytes()
            batch.trim()
            trim(work.level)
            channel.send(Trimmed(work.id, max(0, before - resident_bytes())))
        case Leave():
            batch.save()
            raise Closed


def take_frames(
    channel: Channel, put: Callable[[Generate | Embed], None], inbox: Inbox, texts: SimpleQueue[Tokenize], clock: Clock
) -> None:
    """Sorts what the daemon sends; ends the process when the daemon closes the socket."""
    try:
        while True:
            match frame := channel.receive():
                case Generate() | Embed():
                    put(frame)
                case Tokenize():
                    texts.put(frame)
                case Ping():
                    channel.send(Pong(frame.id, clock.busy_ns))
                case Cancel() | Trim() | Leave():
                    inbox.put(frame)
                case Load():
                    pass
    except Closed:
        os._exit(0)
    except Exception:
        traceback.print_exc()
        os._exit(1)


def answering_texts(channel: Channel, tokenizer: Tokenizer, num_ctx: int) -> SimpleQueue[Tokenize]:
    """Where to put Tokenize frames, which a thread of their own answers."""
    texts: SimpleQueue[Tokenize] = SimpleQueue()
    start_thread(answer_texts, channel, tokenizer, texts, num_ctx)
    return texts


def answer_texts(channel: Channel, tokenizer: Tokenizer, texts: SimpleQueue[Tokenize], num_ctx: int) -> None:
    """Answers Tokenize frames, beside a generation that is under way."""
    with suppress(Closed):
        while True:
            channel.send(tokens_of(tokenizer, texts.get(), num_ctx))


def tokens_of(tokenizer: Tokenizer, frame: Tokenize, num_ctx: int) -> Tokens | Failed:
    """The answer to one Tokenize; for a text many windows long, the ids of its ends, more than `num_ctx`."""
    try:
        return Tokens(frame.id, tokenizer.encode_within(frame.text, num_ctx))
    except Exception as error:
        return failure(frame.id, error)


def start_thread(work: Callable[..., None], *arguments: object) -> None:
    """Runs `work` beside the main thread until the process ends."""
    threading.Thread(target=work, args=arguments, name=work.__name__, daemon=True).start()
