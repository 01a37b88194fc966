"""The daemon's parts as the settings want them, at the start and after a reload."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from hearthd import __version__
from hearthd.api.services import Services
from hearthd.config import Config
from hearthd.duration import SECOND_NS
from hearthd.engine.frames import Load
from hearthd.memory import read_memory
from hearthd.preparing import prepare
from hearthd.registry.transfers import Transfers
from hearthd.scheduler import placement
from hearthd.scheduler.lease import normal
from hearthd.scheduler.loading import LoadDefaults
from hearthd.scheduler.pressure import Watch
from hearthd.scheduler.runner import ProcessRunner
from hearthd.scheduler.scheduler import Scheduler
from hearthd.store.store import ModelStore, StoredModel, open_store
from hearthd.store.variant import VariantInfo
from hearthd.transfer.messages import Settings

log = logging.getLogger(__name__)


def make(config: Config, watch: Watch) -> Services:
    """All parts; they read the settings that they are not told from `Services.config`. StoreError."""
    store = open_store(config.models, config.cache, config.goal)
    _tidy(store, config)

    async def ready_variant(model: StoredModel) -> tuple[Path, VariantInfo]:
        now = services.config
        return await prepare(store, model, packed=now.packed_weights, kv_type=now.kv_cache_type)

    async def runner(load: Load) -> ProcessRunner:
        now = services.config
        return await ProcessRunner.start(
            load,
            timeout_s=now.load_timeout_ns / SECOND_NS,
            hang_timeout_s=now.hang_timeout_ns / SECOND_NS,
        )

    scheduler = Scheduler(
        ready_variant,
        spawn=watch.noticing(runner),
        available=lambda: placement.usable_bytes(read_memory()),
        spare=lambda: placement.spare_bytes(read_memory()) + watch.spare_bytes(),
    )
    transfers = Transfers(transfer_settings(config), environment=transfer_environment(config))
    services = Services(config, store, scheduler, transfers)
    return services


def put_in_force(services: Services, config: Config, keep_alive_by_name: Mapping[str, int]) -> None:
    """Tell the parts these settings; what is loaded or under way keeps those that it began with."""
    services.config = config
    services.store.goal = config.goal
    services.scheduler.configure(load_defaults(config, services.store, keep_alive_by_name), config.max_queue)
    services.transfers.configure(transfer_settings(config), transfer_environment(config))


def load_defaults(config: Config, store: ModelStore, keep_alive_by_name: Mapping[str, int]) -> LoadDefaults:
    """What a load gets where its request does not say."""
    return LoadDefaults(
        keep_alive_ns=normal(config.keep_alive_ns),
        keep_alive_by_name=keep_alive_by_name,
        num_ctx=config.context_length,
        num_threads=config.num_threads,
        num_parallel=config.num_parallel,
        kv_type=config.kv_cache_type,
        prefix_dir=str(store.prefix_dir) if config.prefix_cache_bytes else "",
        prefix_bytes=config.prefix_cache_bytes,
        max_loaded=config.max_loaded_models,
        memory_bytes=config.memory_bytes,
    )


def transfer_settings(config: Config) -> Settings:
    """What the transfer process is told."""
    return Settings(
        version=__version__,
        key=str(config.key),
        credentials=str(config.credentials or ""),
        max_streams=config.transfer_streams,
        max_rate=config.transfer_rate,
        stall_timeout_s=config.transfer_stall_ns / SECOND_NS,
    )


def transfer_environment(config: Config) -> dict[str, str]:
    """What the transfer process is told in confidence: a command's words are for all to read."""
    return {"HF_ENDPOINT": config.hub_endpoint, "HF_TOKEN": config.hub_token}


def _tidy(store: ModelStore, config: Config) -> None:
    if not store.writable:
        log.warning("the store %s is read-only: models can be used, not created or deleted", store.root)
    store.tidy()
    if not config.prefix_cache_bytes:
        store.prompts.forget_all()
    if not config.noprune:
        store.prune()
