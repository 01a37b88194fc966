"""Every failure that a client may see, with its HTTP status and the sentence it is told."""

from __future__ import annotations


class HearthError(Exception):
    """Base of all foreseen failures. `str(error)` is the sentence for the client."""

    status = 500


class BadRequest(HearthError):
    """The request itself is at fault."""

    status = 400


class Forbidden(HearthError):
    """Refused by policy, whatever the request says."""

    status = 403


class NotFound(HearthError):
    """The named thing is not here."""

    status = 404


class TooLarge(HearthError):
    """The request body exceeds its bound."""

    status = 413


class Canceled(HearthError):
    """The client left before its answer began."""

    status = 499


class Overloaded(HearthError):
    """The queue is full, or the daemon is stopping."""

    status = 503


class InvalidName(BadRequest):
    """A model name that breaks the grammar."""

    def __init__(self, text: str) -> None:
        super().__init__("invalid model name")
        self.text = text


class ModelNotFound(NotFound):
    """A well-formed name without a manifest."""

    def __init__(self, name: str) -> None:
        super().__init__(f"model '{name}' not found")
        self.name = name


class InvalidDigest(BadRequest):
    """A digest that is not sha256 in hexadecimal."""

    def __init__(self, text: str) -> None:
        super().__init__("invalid digest format")
        self.text = text


class DigestMismatch(BadRequest):
    """Content that is not what its digest promised."""

    def __init__(self, want: str, got: str) -> None:
        super().__init__(f'digest mismatch, expected "{want}", got "{got}"')
        self.want = want
        self.got = got


class StoreError(HearthError):
    """The store cannot be read or written: disk full, read-only, damaged."""


class ExportFailed(HearthError):
    """A checkpoint could not be converted; the sentence comes from the exporter."""


class TransferFailed(HearthError):
    """Something could not be fetched from a registry or sent to it; `reason` is a word of transfer/messages.py."""

    def __init__(self, sentence: str, reason: str = "failed", answered: int = 0) -> None:
        super().__init__(sentence)
        self.reason = reason
        self.answered = answered  # status of the registry's answer; 0: there was none


class LoadFailed(HearthError):
    """A runner could not load its model."""


class LoadStalled(LoadFailed):
    """A load stood still for too long."""


class RunnerDied(HearthError):
    """A runner's process ended while it was needed."""


class RunnerKilled(RunnerDied):
    """A runner was killed, and not by the daemon: most likely by the kernel, for lack of memory."""


class RunnerOutgrown(RunnerKilled):
    """A runner was killed because it took more than its own limit."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"the model runner outgrew its limit of {limit_bytes >> 20} MiB and was killed")
        self.limit_bytes = limit_bytes
