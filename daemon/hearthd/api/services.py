"""What handlers work with."""

from __future__ import annotations

from dataclasses import dataclass

from hearthd.config import Config
from hearthd.registry.transfers import Transfers
from hearthd.scheduler.scheduler import Scheduler
from hearthd.store.store import ModelStore


@dataclass(slots=True)
class Services:
    """The daemon's parts, made by the composition root."""

    config: Config  # a reload puts another here
    store: ModelStore
    scheduler: Scheduler
    transfers: Transfers
