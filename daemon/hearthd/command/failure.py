"""How a command ends badly."""

from __future__ import annotations


class CommandFailed(Exception):
    """`str(error)` is the sentence for the user; the exit status is 1."""


class NoServer(CommandFailed):
    """Nothing answers where the server should be."""


class ConnectionLost(CommandFailed):
    """The server went away in the middle."""


class ServerRefused(CommandFailed):
    """The server answered with an error. `status` is that of HTTP; 200 where it came as a line of a stream."""

    def __init__(self, sentence: str, status: int = 200) -> None:
        super().__init__(sentence)
        self.status = status
