"""The process of one loaded model: `python -m hearthd.engine --fd N`, started by the daemon.

The main thread owns the model and all requests. One thread takes frames from the socket, so that a
Cancel is seen while a step runs; another answers Tokenize. The process ends when the socket closes.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue

from hearthd.engine.batch import Batch, failure
from hearthd.engine.channel import Channel, Closed
from hearthd.engine.frames import Cancel, Failed, Generate, Leave, Load, Ping, Pong, Tokenize, Tokens, Trim, Trimmed
from hearthd.engine.loading import load_failure, loaded, open_model
from hearthd.engine.tokens import Tokenizer

PR_SET_PDEATHSIG = 1  # linux/prctl.h
OOM_SCORE_ADJ = "500"  # of -1000..1000: the kernel takes a runner before the daemon
LOG_FORMAT = "%(asctime)s %(levelname)-7s %(message)s"
WITHOUT_WEIGHTS = (
    "the model was loaded with vocab_only, without its weights: it can count tokens but not answer; "
    "leave the option out to load it whole"
)
USAGE = "usage: python -m hearthd.engine --fd N (started by the daemon)"

log = logging.getLogger(__name__)

Inbox = SimpleQueue[Generate | Cancel]
Texts = SimpleQueue[Tokenize]


def guard_process() -> None:
    """Ties this process to its parent's life, offers it first to the OOM killer, leaves Ctrl-C to the daemon."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # no threads beside those of ONNX Runtime
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE_ADJ)


def take_frames(channel: Channel, inbox: Inbox, texts: Texts) -> None:
    """Sorts what the daemon sends; ends the process when the daemon closes the socket."""
    try:
        while True:
            frame = channel.receive()
            if isinstance(frame, Tokenize):
                texts.put(frame)
            elif isinstance(frame, Ping):
                channel.send(Pong(frame.id, 0))
            elif isinstance(frame, Trim):
                channel.send(Trimmed(frame.id, 0))
            elif isinstance(frame, Leave):
                raise Closed
            elif not isinstance(frame, Load):
                inbox.put(frame)
    except Closed:
        os._exit(0)
    except Exception:
        traceback.print_exc()
        os._exit(1)


def answer_texts(channel: Channel, tokenizer: Tokenizer, texts: Texts, num_ctx: int) -> None:
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


def take(batch: Batch, frame: Generate | Cancel) -> None:
    """Hands a frame to the batch."""
    if isinstance(frame, Generate):
        batch.add(frame)
    else:
        batch.cancel(frame.id)


def refuse(channel: Channel, inbox: Inbox) -> None:
    """Answers every Generate of a model without weights, until the channel closes. Raises Closed."""
    while True:
        frame = inbox.get()
        if isinstance(frame, Generate):
            channel.send(Failed(frame.id, WITHOUT_WEIGHTS, 400))


def serve(batch: Batch, inbox: Inbox) -> None:
    """Works until the channel closes: frames first, then a step. Raises Closed."""
    while True:
        if batch.idle:
            take(batch, inbox.get())
        while not inbox.empty():
            take(batch, inbox.get_nowait())
        if not batch.idle:
            batch.step()


def run(channel: Channel) -> int:
    """The runner's life. Returns the exit status, or raises Closed."""
    started_ns = time.monotonic_ns()
    load = channel.receive()
    if not isinstance(load, Load):
        raise ValueError(f"the first frame must be Load, not {type(load).__name__}")
    try:
        info, tokenizer, session = open_model(load)
    except Exception as error:
        channel.send(load_failure(error))
        return 1
    answer = loaded(load, session, time.monotonic_ns() - started_ns)
    channel.send(answer)
    inbox, texts = Inbox(), Texts()
    start_thread(take_frames, channel, inbox, texts)
    start_thread(answer_texts, channel, tokenizer, texts, answer.num_ctx)
    if session is None:
        refuse(channel, inbox)
    else:
        serve(Batch(session, tokenizer, info, channel.send), inbox)
    return 0


def main(arguments: list[str]) -> int:
    """Serves the socket that `--fd` names; returns the exit status."""
    if len(arguments) != 2 or arguments[0] != "--fd" or not arguments[1].isdigit():
        sys.stderr.write(USAGE + "\n")
        return 2
    guard_process()
    logging.basicConfig(format=LOG_FORMAT)  # to standard error, which is the daemon's
    with suppress(Closed):
        return run(Channel(socket.socket(fileno=int(arguments[1]))))
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(status)  # at once: nothing here needs finalizers, and ONNX Runtime's take time
