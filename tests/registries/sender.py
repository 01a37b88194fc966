"""The real transfer process, spoken to by lines, as the daemon speaks to it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import msgspec

from hearthd.transfer.messages import Answer, Failed, Finished, Moved, Order, Settings, decode_answer, encode
from tests.e2e.daemon import PATIENCE_S


class Sender:
    """A running `python -m hearthd.transfer`, with no proxies and with the additional variables."""

    def __init__(self, settings: Settings, **variables: str) -> None:
        command = [sys.executable, "-m", "hearthd.transfer", msgspec.json.encode(settings).decode()]
        environment = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        environment |= variables
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        )

    def order(self, order: Order) -> None:
        """Write the line."""
        assert self.process.stdin is not None
        self.process.stdin.write(encode(order))
        self.process.stdin.flush()

    def answers(self) -> Iterator[Answer]:
        """Everything it says from now on, up to the end of a job."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            answer = decode_answer(line)
            yield answer
            if isinstance(answer, Finished | Failed):
                return

    def do(self, order: Order) -> list[Answer]:
        """All answers to the order, its end the last."""
        self.order(order)
        return list(self.answers())

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait(PATIENCE_S)

    def close(self) -> str:
        """Tell it to leave; what it wrote to standard error."""
        _, errors = self.process.communicate(timeout=PATIENCE_S)
        return errors.decode()


@contextmanager
def sender(settings: Settings, **variables: str) -> Iterator[Sender]:
    """A process that takes orders; gone after the block."""
    process = Sender(settings, **variables)
    try:
        yield process
    finally:
        process.kill()
        for pipe in (process.process.stdin, process.process.stdout, process.process.stderr):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()


def moves(answers: list[Answer]) -> list[int]:
    """How far the job said it was, in order."""
    return [answer.completed for answer in answers if isinstance(answer, Moved)]
