"""Requests that wait for a model to be loaded, in the order in which they came."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextvars import Context, copy_context
from dataclasses import dataclass, field

from hearthd.errors import HearthError
from hearthd.scheduler.lease import LoadedModel, LoadOptions, NextPrompt
from hearthd.store.store import StoredModel


@dataclass(slots=True, eq=False)
class Ticket:
    """A request in the queue."""

    key: str
    model: StoredModel
    options: LoadOptions
    keep_alive_ns: int | None
    prompt: NextPrompt | None = None
    context: Context = field(default_factory=copy_context)  # of the request: what its load tells the log is of it
    granted: asyncio.Future[LoadedModel | None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )  # None: ask once more

    def shares_load_of(self, other: Ticket) -> bool:
        """Whether the model loaded for `other` will serve this one too."""
        return self.key == other.key and self.options.met_by(other.options)

    def grant(self, loaded: LoadedModel | None) -> None:
        """Lets the request go on, if it still waits."""
        if not self.granted.done():
            self.granted.set_result(loaded)

    def fail(self, error: HearthError) -> None:
        """Ends the request, if it still waits."""
        if not self.granted.done():
            self.granted.set_exception(error)


class Queue:
    """The tickets; one that has left is answered by whoever took it out. `changed` is told of each change."""

    def __init__(self, changed: Callable[[], None] = lambda: None) -> None:
        self._changed = changed
        self._tickets: list[Ticket] = []

    def __len__(self) -> int:
        return len(self._tickets)

    def __contains__(self, ticket: Ticket) -> bool:
        return ticket in self._tickets

    def __iter__(self) -> Iterator[Ticket]:
        return iter(list(self._tickets))

    @property
    def head(self) -> Ticket | None:
        """The one whose turn it is."""
        return self._tickets[0] if self._tickets else None

    def append(self, ticket: Ticket) -> None:
        """Behind all others."""
        self._tickets.append(ticket)
        self._changed()

    def remove(self, ticket: Ticket) -> None:
        """Out of its turn. ValueError where it is not here."""
        self._tickets.remove(ticket)
        self._changed()

    def wants(self, head: Ticket) -> bool:
        """Whether anybody still waits for the load of `head`."""
        return any(ticket is head or ticket.shares_load_of(head) for ticket in self._tickets)

    def take_sharing(self, head: Ticket) -> list[Ticket]:
        """Takes out those who want what `head` wants, itself included."""
        sharing = [ticket for ticket in self._tickets if ticket is head or ticket.shares_load_of(head)]
        self._tickets = [ticket for ticket in self._tickets if ticket not in sharing]
        self._changed()
        return sharing

    def take_all(self) -> list[Ticket]:
        """Takes out everybody."""
        tickets, self._tickets = self._tickets, []
        self._changed()
        return tickets
