"""The process of one loaded model: `python -m hearthd.engine --fd N`, started by the daemon.

It ends when the socket closes; what its threads do stands in serving.py.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

from hearthd import log
from hearthd.engine.beside import Beside
from hearthd.engine.channel import Channel, Closed
from hearthd.engine.frames import Load
from hearthd.engine.loading import leave_files, load_failure, loaded, open_model
from hearthd.engine.providers.provider import opening

PR_SET_PDEATHSIG = 1  # linux/prctl.h
OOM_SCORE_ADJ = "500"  # of -1000..1000: the kernel takes a runner before the daemon
LEAVE_AFTER_S = 0.1
USAGE = "usage: python -m hearthd.engine --fd N (started by the daemon)"


def guard_process() -> None:
    """Ties this process to its parent's life, and offers it first to the OOM killer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the daemon's
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # no threads beside those of ONNX Runtime
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE_ADJ)


def run(channel: Channel) -> int:
    """The runner's life. Returns the exit status, or raises Closed."""
    started_ns = time.monotonic_ns()
    load = channel.receive()
    if not isinstance(load, Load):
        raise ValueError(f"the first frame must be Load, not {type(load).__name__}")
    serving = Beside(_import_serving)
    try:
        opened = open_model(load)
    except Exception as error:
        channel.send(load_failure(error))
        return 1
    answer = loaded(load, opened, time.monotonic_ns() - started_ns)
    channel.send(answer)
    Beside(lambda: _leave_files(load))
    serving.result()
    from hearthd.engine.batch import Batch
    from hearthd.engine.encoding import Encodings
    from hearthd.engine.serving import serve, serve_vocabulary

    if opened.encoder is not None:
        encodings = Encodings(opened.encoder, opened.tokenizer, answer.num_ctx, channel.send)
        serve(channel, encodings, opened.tokenizer, answer.num_ctx)
    elif opened.session is None:
        serve_vocabulary(channel, opened.tokenizer, answer.num_ctx)
    else:
        batch = Batch(
            opened.session, opened.tokenizer, opened.info, channel.send, opened.prompts, resumed=opened.resumed
        )
        serve(channel, batch, opened.tokenizer, answer.num_ctx)
    return 0


def _leave_files(load: Load) -> None:
    """Not while the first request is on its way: both want the interpreter."""
    time.sleep(LEAVE_AFTER_S)
    leave_files(load)


def _import_serving() -> None:
    """What serves, imported while the model is opened, once that needs the interpreter no more."""
    opening.wait()
    from hearthd.engine import serving  # noqa: F401


def main(arguments: list[str]) -> int:
    """Serves the socket that `--fd` names; returns the exit status."""
    if len(arguments) != 2 or arguments[0] != "--fd" or not arguments[1].isdigit():
        sys.stderr.write(USAGE + "\n")
        return 2
    guard_process()
    log.configure_child(logging.WARNING)
    with suppress(Closed):
        return run(Channel(socket.socket(fileno=int(arguments[1]))))
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(status)  # at once: nothing here needs finalizers, and ONNX Runtime's take time
