"""The composition root: makes the daemon's parts, runs them, and takes them down again."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import uvloop

from hearthd import __version__, log, starter
from hearthd.api.guard import Guard
from hearthd.api.routes import Api
from hearthd.api.services import Services
from hearthd.api.serving import HttpServer, listen
from hearthd.config import Config
from hearthd.duration import SECOND_NS
from hearthd.errors import ExportFailed, HearthError
from hearthd.memory import read_memory
from hearthd.registry.packing import ensure_packed
from hearthd.registry.progress import Progress, Report
from hearthd.registry.transfers import Transfers
from hearthd.registry.variants import ensure_variant
from hearthd.scheduler import placement
from hearthd.scheduler.pressure import Watch
from hearthd.scheduler.runner import ProcessRunner
from hearthd.scheduler.scheduler import Scheduler
from hearthd.store import media
from hearthd.store.shipped import PROVIDERS, install_shipped
from hearthd.store.store import ModelStore, StoredModel, open_store
from hearthd.store.variant import ENCODER, VariantInfo
from hearthd.threads import in_thread
from hearthd.transfer.messages import Settings

NUM_THREADS = 2  # for disk work that must not hold up the event loop

logger = logging.getLogger(__name__)


def run(config: Config, *, with_starter: bool) -> int:
    """Serve until a signal; the exit status. A reason not to start is one sentence on standard error."""
    for fault in config.faults:
        sys.stderr.write(f"hearth: {fault}\n")
    if config.faults:
        return 1
    log.configure(config.log_level)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(config, with_starter=with_starter))
    except HearthError as error:
        sys.stderr.write(f"hearth: {error}\n")
        return 1
    return 0


async def serve(config: Config, *, with_starter: bool) -> None:
    """Listen, serve, drain, stop. HearthError where it cannot begin."""
    for warning in config.warnings:
        logger.warning("%s", warning)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(NUM_THREADS))
    with listen(config.host.name, config.host.port) as socket:
        store = open_store(config.models, config.cache, config.goal)
        _tidy(store, config)
        watch = Watch()
        scheduler = _scheduler(config, store, watch)
        transfers = Transfers(transfer_settings(config), environment=transfer_environment(config))
        api = Api(Services(config, store, scheduler, transfers), Guard(config.host.name, config.origins))
        server = HttpServer(api, config.drain_timeout_ns / SECOND_NS)
        _stop_on_signals(server, scheduler)
        watching = asyncio.create_task(watch.run(scheduler))
        beginning = asyncio.create_task(_begin(config, store, transfers, with_starter))
        _forget_the_start()
        try:
            await server.serve(sockets=[socket])
        finally:
            beginning.cancel()
            watching.cancel()
            await transfers.stop()
            await scheduler.stop()
    logger.info("stopped")


def _tidy(store: ModelStore, config: Config) -> None:
    if not store.writable:
        logger.warning("the store %s is read-only: models can be used, not created or deleted", store.root)
    store.tidy()
    if not config.prefix_cache_bytes:
        store.prompts.forget_all()
    if not config.noprune:
        store.prune()


def _scheduler(config: Config, store: ModelStore, watch: Watch) -> Scheduler:
    start = partial(
        ProcessRunner.start,
        timeout_s=config.load_timeout_ns / SECOND_NS,
        hang_timeout_s=config.hang_timeout_ns / SECOND_NS,
    )
    return Scheduler(
        partial(prepare, store, packed=config.packed_weights, kv_type=config.kv_cache_type),
        spawn=watch.noticing(start),
        keep_alive_ns=config.keep_alive_ns,
        num_ctx=config.context_length,
        num_threads=config.num_threads,
        num_parallel=config.num_parallel,
        kv_type=config.kv_cache_type,
        prefix_dir=str(store.prefix_dir) if config.prefix_cache_bytes else "",
        prefix_bytes=config.prefix_cache_bytes,
        max_queue=config.max_queue,
        max_loaded=config.max_loaded_models,
        memory_bytes=config.memory_bytes,
        available=lambda: placement.usable_bytes(read_memory()),
        spare=lambda: placement.spare_bytes(read_memory()) + watch.spare_bytes(),
    )


async def prepare(
    store: ModelStore, model: StoredModel, *, packed: bool = False, kv_type: str = ""
) -> tuple[Path, VariantInfo]:
    """A variant of the model that this device runs, converted and `packed` now where there is none.

    Raises ExportFailed, StoreError.
    """
    contents = store.contents(model)
    if contents.adapters:
        raise ExportFailed(f"{model.name.short} has an adapter, which this version cannot merge into its checkpoint")
    is_shipped = await in_thread(lambda: install_shipped(store, model.manifest))
    if model.manifest.of(*media.SOURCES):
        if not (is_shipped and _has_variant(store, contents.model_digest)):
            await ensure_variant(store, contents.model_digest, _stage_log(model.name.short))
    elif not is_shipped:
        raise ExportFailed(f"{model.name.short} holds no checkpoint that can be run")
    found = [(path, info) for path, info in store.variants(contents.model_digest) if info.provider in PROVIDERS]
    if not found:
        raise ExportFailed(f"{model.name.short}: the converter left no variant")
    directory, info = found[0]
    if packed and info.kind != ENCODER:
        await ensure_packed(directory, info, kv_type)
    return directory, info


def _has_variant(store: ModelStore, digest: str) -> bool:
    return any(info.provider in PROVIDERS and info.serves(store.goal) for _, info in store.variants(digest))


def _stage_log(name: str) -> Report:
    """Tells the log of each new stage."""
    last = ""

    def report(progress: Progress) -> None:
        nonlocal last
        if progress.status != last:
            last = progress.status
            logger.info("%s: %s", name, last)

    return report


def _stop_on_signals(server: HttpServer, scheduler: Scheduler) -> None:
    def stop(number: signal.Signals) -> None:
        logger.info("%s: stopping", number.name)
        scheduler.start_drain()
        server.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)


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


async def _begin(config: Config, store: ModelStore, transfers: Transfers, with_starter: bool) -> None:
    """Say that the daemon serves; make what the first start makes: the key, the starter model where it is wanted."""
    url = config.host.connectable.url
    logger.info("hearth %s listens on %s, models in %s", __version__, url, store.root)
    await _make_key(config, transfers)
    if with_starter:
        try:
            await starter.begin(store, url)
        except Exception:  # whatever it is, the daemon serves
            logger.exception("the starter model could not be made")
    elif not store.models():
        logger.info("%s", starter.how_to_get_a_model(url))


async def _make_key(config: Config, transfers: Transfers) -> None:
    """Registries know this device by its key; without one it pulls as anybody may."""
    if not config.key.exists():
        try:
            await transfers.make_key()
            logger.info("this device's key for registries is %s", config.key)
        except HearthError as error:
            logger.warning("no key for registries: %s", error)


def _forget_the_start() -> None:
    """What was made until now stays; the collector need not look at it again."""
    gc.collect()
    gc.freeze()
