"""How a job ends that cannot be done: a sentence for the client, and whether trying again may help."""

from __future__ import annotations

from hearthd.transfer.messages import FAILED


class TransferError(Exception):
    """`str(error)` is the sentence for the client; it names the host, blob or file and what to do."""

    def __init__(self, error: str, reason: str = FAILED, status: int = 0) -> None:
        super().__init__(error)
        self.reason = reason  # of messages.Failed
        self.status = status  # of the registry's HTTP answer; 0: there was none


class Passing(TransferError):
    """A failure of the moment: lost connection, stall, overloaded registry. Worth another try."""

    def __init__(self, error: str, reason: str = FAILED, status: int = 0, *, after_s: float = 0.0) -> None:
        super().__init__(error, reason, status)
        self.after_s = after_s  # the registry asks to be left alone for so long
