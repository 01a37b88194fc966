"""What the server says of itself."""

from __future__ import annotations

from hearthd import __version__
from hearthd.api.exchange import Exchange
from hearthd.api.services import Services
from hearthd.api.wire import CloudStatus, Status, Version


async def root(services: Services, exchange: Exchange) -> None:
    """The text by which clients find that a server is there."""
    await exchange.text("Ollama is running")


async def version(services: Services, exchange: Exchange) -> None:
    """The daemon's version."""
    await exchange.json(Version(version=__version__))


async def status(services: Services, exchange: Exchange) -> None:
    """Remote models are never served."""
    await exchange.json(Status(cloud=CloudStatus(disabled=True, source="config")))
