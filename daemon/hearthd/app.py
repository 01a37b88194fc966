"""The composition root: makes the daemon's parts, runs them, and takes them down again."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import sys
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import uvloop

from hearthd import __version__, cage, log, parts, starter
from hearthd.api.guard import Guard, is_loopback
from hearthd.api.routes import Api
from hearthd.api.serving import HttpServer, bound_hosts, listen
from hearthd.boot import Boot
from hearthd.config import DEFAULT, Config
from hearthd.duration import SECOND_NS
from hearthd.errors import HearthError
from hearthd.host import Host
from hearthd.notify import Manager, open_manager, take_sockets
from hearthd.policy import Policy, read_policy
from hearthd.reload import Change, Environment, change
from hearthd.scheduler.pressure import Watch
from hearthd.supervision import Health, StatusLine, awaited, feed
from hearthd.threads import in_thread

NUM_THREADS = 2  # for disk work that must not hold up the event loop
STOP_S = 20.0  # that a stop may take beside the drain

logger = logging.getLogger(__name__)


def run(config: Config, *, with_starter: bool) -> int:
    """Serve until a signal; the exit status. A reason not to start is one sentence on standard error."""
    for fault in config.faults:
        sys.stderr.write(f"hearth: {fault}\n")
    if config.faults:
        return 1
    log.configure(config.log_level)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, ExitStack() as stack:
            manager, inherited = open_manager(), take_sockets()
            sockets = inherited or [listen(config.host.name, config.host.port)]
            for listening in sockets:
                stack.enter_context(listening)
            hosts = bound_hosts(sockets)
            _tell_address(config, hosts, is_inherited=bool(inherited))
            runner.run(_serve(config, manager, sockets, hosts, with_starter))
    except HearthError as error:
        sys.stderr.write(f"hearth: {error}\n")
        return 1
    return 0


async def _serve(
    config: Config, manager: Manager, sockets: list[socket.socket], hosts: list[Host], with_starter: bool
) -> None:
    for warning in config.warnings:
        logger.warning("%s", warning)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(NUM_THREADS))
    await Daemon(config, manager, hosts).serve(sockets, with_starter=with_starter)
    logger.info("stopped")


class Daemon:
    """The parts together, from the start to the end of the process."""

    def __init__(self, config: Config, manager: Manager, hosts: list[Host]) -> None:
        """HearthError where the store cannot be read."""
        self._manager = manager
        self._hosts = hosts
        self._environment = Environment()
        self._fault = ""  # of the last reload
        self._booting = ""  # what the models of the policy wait for
        self._tasks: set[asyncio.Task[None]] = set()
        self._boot_task: asyncio.Task[None] | None = None
        self._watch = Watch()
        self._services = parts.make(config, self._watch)
        self._boot = Boot(self._services, self._tell_boot)
        self._policy = self._first_policy(config)
        self._api = Api(self._services, self._guard())
        self._server = HttpServer(self._api, config.drain_timeout_ns / SECOND_NS, self._is_serving)
        self._status = StatusLine(manager, self._describe)
        self._services.scheduler.changed = self._status.changed
        self._put_in_force(config, self._policy)

    async def serve(self, sockets: list[socket.socket], *, with_starter: bool) -> None:
        """Until a signal."""
        self._listen_to_signals()
        self._spawn(self._watch.run(self._services.scheduler))
        self._start_boot()
        self._spawn(self._begin(with_starter))
        _forget_the_start()
        try:
            await self._server.serve(sockets=sockets)
        finally:
            self._status.end()
            for task in self._tasks:
                task.cancel()
            await self._services.transfers.stop()
            await self._services.scheduler.stop()

    # the start

    def _is_serving(self) -> None:
        self._spawn(self._get_ready())

    async def _get_ready(self) -> None:
        """Tells the manager that the daemon is, and then that it is well, for ever."""
        if self._policy.wait:
            await awaited(self._manager, self._describe, self._boot.tried)
        self._manager.ready(self._describe())
        health = Health(self._server.complaint, self._services.scheduler.stuck)
        await feed(self._manager, health)

    async def _begin(self, with_starter: bool) -> None:
        """Say that the daemon serves; make what the first start makes: the key, the starter model if wanted."""
        url, store = self._hosts[0].connectable.url, self._services.store
        if self._manager.listens and (missing := cage.current().why_not):
            logger.warning("%s; budgets count all the same", missing)
        logger.info("hearth %s listens on %s, models in %s", __version__, url, store.root)
        await self._make_key()
        if with_starter:
            try:
                await starter.begin(store, url)
            except Exception:  # whatever it is, the daemon serves
                logger.exception("the starter model could not be made")
        elif not store.models():
            logger.info("%s", starter.how_to_get_a_model(url))

    async def _make_key(self) -> None:
        """Registries know this device by its key; without one it pulls as anybody may."""
        key = self._services.config.key
        if not key.exists():
            try:
                await self._services.transfers.make_key()
                logger.info("this device's key for registries is %s", key)
            except HearthError as error:
                logger.warning("no key for registries: %s", error)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # what it says of itself

    def _describe(self) -> str:
        """One line for `systemctl status`."""
        scheduler = self._services.scheduler
        loaded = [status.model.name.short + " (loading)" * status.loading for status in scheduler.loaded()]
        said = [
            f"the settings are the old ones: {self._fault}" if self._fault else "",
            ", ".join(loaded) + " loaded" if loaded else "no model loaded",
            f"{scheduler.num_waiting} waiting" if scheduler.num_waiting else "",
            self._booting,
            f"at {', '.join(host.url for host in self._hosts)}",
            cage.current().why_not if self._manager.listens else "",
        ]
        return "; ".join(text for text in said if text)

    def _tell_boot(self, text: str) -> None:
        self._booting = text
        self._status.changed()

    # signals

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        if self._manager.listens or not sys.stderr.isatty():  # a terminal that closes ends what it began
            loop.add_signal_handler(signal.SIGHUP, self._reload)

    def _stop(self, number: signal.Signals) -> None:
        running, drain_s = self._server.num_running, self._services.config.drain_timeout_ns / SECOND_NS
        logger.info("%s: stopping", number.name)
        self._status.end()
        self._manager.stopping(f"stopping; {running} requests are brought to their end" if running else "stopping")
        if running:
            self._manager.extend(drain_s + STOP_S)
        self._services.scheduler.start_drain()
        self._server.stop()

    def _reload(self) -> None:
        """Reads settings and policy again. What cannot be read changes nothing."""
        self._manager.reloading()
        try:
            found = change(self._services.config, self._environment)
            policy = self._read_policy(found.config)
        except HearthError as error:
            self._fault = str(error)
            logger.error("reload: the old settings stay: %s", error)
        else:
            self._fault = ""
            _tell_change(found)
            self._put_in_force(found.config, policy)
            self._start_boot()
        self._manager.ready(self._describe())

    # settings and policy

    def _read_policy(self, config: Config) -> Policy:
        """The models that are wanted at the start. HearthError where the file makes no sense."""
        return Policy() if config.policy is None else read_policy(config.policy)

    def _first_policy(self, config: Config) -> Policy:
        """As _read_policy; a device whose policy makes no sense still serves the models that it has."""
        try:
            return self._read_policy(config)
        except HearthError as error:
            self._fault = str(error)
            logger.error("%s; no model is pulled or loaded at the start", error)
            return Policy()

    def _put_in_force(self, config: Config, policy: Policy) -> None:
        had_prefixes = bool(self._services.config.prefix_cache_bytes)
        parts.put_in_force(self._services, config, policy.keep_alive_by_name())
        self._policy = policy
        self._api.guard = self._guard()
        self._server.set_drain(config.drain_timeout_ns / SECOND_NS)
        log.configure(config.log_level)
        if had_prefixes and not config.prefix_cache_bytes:
            self._spawn(in_thread(self._services.store.prompts.forget_all))

    def _start_boot(self) -> None:
        if self._boot_task is not None:
            self._boot_task.cancel()
        self._booting = ""
        self._boot_task = self._spawn(self._boot.run(self._policy))

    def _guard(self) -> Guard:
        """One for all addresses: where others can reach one of them, a Host header tells nothing."""
        reachable = [host.name for host in self._hosts if not is_loopback(host.name)]
        return Guard(next(iter(reachable), self._hosts[0].name), self._services.config.origins)


def _tell_change(found: Change) -> None:
    for warning in found.config.warnings:
        logger.warning("%s", warning)
    logger.info("reload: %s", f"changed {', '.join(found.changed)}" if found.changed else "nothing changed")
    if found.awaiting:
        logger.warning("reload: %s takes effect with the next start", ", ".join(found.awaiting))


def _tell_address(config: Config, hosts: list[Host], *, is_inherited: bool) -> None:
    """A setting that cannot count, because the manager has bound the socket, is no secret."""
    urls = [host.url for host in hosts]
    if is_inherited and config.set_by["host"] != DEFAULT and config.host.url not in urls:
        logger.warning(
            "%s=%s has no effect: systemd listens, at %s; hearth.socket says where, and "
            "`hearth install-service --listen ADDRESS` changes it",
            *(config.set_by["host"], config.host.url, ", ".join(urls)),
        )


def _forget_the_start() -> None:
    """What was made until now stays; the collector need not look at it again."""
    gc.collect()
    gc.freeze()
