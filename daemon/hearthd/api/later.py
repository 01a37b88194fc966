"""Endpoints of the contract that this version does not serve."""

from __future__ import annotations

from hearthd.api.exchange import Exchange
from hearthd.api.services import Services
from hearthd.errors import HearthError


class ComesLater(HearthError):
    """A part of the contract that this version does not serve."""

    status = 501


async def embed(services: Services, exchange: Exchange) -> None:
    """Refused."""
    raise ComesLater("embeddings are not available in this version")
