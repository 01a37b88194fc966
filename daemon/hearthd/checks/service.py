"""The checks of what lies about the daemon: the service, its socket, its policy, the clock's source, swap."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from hearthd.cage import kernel_has_memory
from hearthd.config import DEFAULT
from hearthd.envfile import read_env_file
from hearthd.errors import HearthError
from hearthd.finding import Device, Finding, counted, failure, ok, warning
from hearthd.policy import read_policy
from hearthd.service import ENV_FILE, ENVIRONMENT, SOCKET, UNIT
from hearthd.store.store import ModelStore

MANAGER_TIMEOUT_S = 5.0
UNIT_DIRECTORIES = (
    "etc/systemd/system",
    "run/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
)
CGROUPS = "sys/fs/cgroup"
WRITABLE = (Path("/var/lib/hearth"), Path("/var/cache/hearth"))  # what the unit's StateDirectory= and the like open
SWITCH_ON = (
    "add cgroup_enable=memory to the line of /boot/firmware/cmdline.txt (Raspberry Pi OS), "
    "or to the kernel's command line elsewhere"
)
PROPERTIES = (
    *("ActiveState", "UnitFileState", "NRestarts", "Result", "WatchdogUSec", "ControlGroup", "Delegate"),
    "NeedDaemonReload",
)


def unit_path(root: Path, name: str = UNIT) -> Path | None:
    """Where the unit is installed; None: nowhere."""
    return next((path for place in UNIT_DIRECTORIES if (path := root / place / name).is_file()), None)


def service_environ(environ: Mapping[str, str], root: Path) -> Mapping[str, str]:
    """The variables of the service, where one is installed and `environ` says nothing of its own; else `environ`.

    OSError where this user may not read its file.
    """
    if unit_path(root) is None or any(name.startswith(("HEARTH_", "OLLAMA_")) for name in environ):
        return environ
    try:
        given = read_env_file(root / ENV_FILE)
    except FileNotFoundError:
        given = {}
    return {**environ, **ENVIRONMENT, **given}


def check_service(device: Device) -> Iterator[Finding]:
    """Whether systemd runs the daemon, and how it goes."""
    if unit_path(device.root) is None:
        yield ok("not installed; `hearth install-service` makes one of systemd")
        return
    if not (device.root / "run/systemd/system").is_dir():
        yield ok("installed, but this system is not run by systemd")
        return
    shown = _show(UNIT, *PROPERTIES)
    if shown is None:
        yield warning(f"systemd says nothing of {UNIT}", f"see `systemctl status {UNIT}`")
        return
    yield _state(shown)
    if shown.get("UnitFileState") not in ("enabled", "enabled-runtime", "static"):
        yield warning(f"it is not started at boot ({shown.get('UnitFileState', '')})", f"systemctl enable {UNIT}")
    if shown.get("NRestarts", "0") not in ("", "0"):
        yield warning(f"it was started again {shown['NRestarts']} times", f"see `journalctl -u {UNIT}`")
    if shown.get("NeedDaemonReload") == "yes":
        yield warning("its unit file has changed since systemd read it", "systemctl daemon-reload")
    yield _watchdog(shown.get("WatchdogUSec", ""))
    yield _cage(device.root, shown)


def _state(shown: Mapping[str, str]) -> Finding:
    state = shown.get("ActiveState", "")
    if state == "failed":
        return failure(f"it has failed ({shown.get('Result', '')})", f"see `journalctl -u {UNIT}`")
    if state in ("active", "reloading"):
        return ok(state)
    return warning(f"it is {state or 'not known'}", f"systemctl start {UNIT}")


def _watchdog(text: str) -> Finding:
    if text in ("", "0", "infinity"):
        return warning("it has no watchdog", f"set WatchdogSec=30 in a drop-in: systemctl edit {UNIT}")
    return ok(f"a daemon that hangs is started again after {text}")


def _cage(root: Path, shown: Mapping[str, str]) -> Finding:
    """Whether runners have limits of their own."""
    group = shown.get("ControlGroup", "").lstrip("/")
    try:
        words = (root / CGROUPS / group / "runners/cgroup.subtree_control").read_text().split() if group else []
    except OSError:
        words = []
    if "memory" in words:
        return ok("runners have memory limits of their own")
    if not kernel_has_memory(root / "proc"):
        return warning(
            "runners have no memory limits of their own: the kernel was started without its memory controller",
            f"{SWITCH_ON}, then restart the device",
        )
    advice = f"set Delegate=memory pids cpu in a drop-in: systemctl edit {UNIT}"
    if shown.get("ActiveState") != "active":
        return ok("runners get memory limits of their own when it runs")
    if shown.get("Delegate") == "yes":
        advice = "start it again; the log says why there are none"
    return warning("runners have no memory limits of their own", advice)


def check_socket(device: Device) -> Iterator[Finding]:
    """Whether the address that systemd listens on is the one of the settings."""
    if unit_path(device.root, SOCKET) is None or not (device.root / "run/systemd/system").is_dir():
        yield ok("none: the daemon opens its own")
        return
    shown = _show(SOCKET, "ActiveState", "Listen") or {}
    listens, host = shown.get("Listen", ""), device.config.host
    if shown.get("ActiveState") != "active":
        yield warning(f"{SOCKET} is {shown.get('ActiveState') or 'not known'}", f"systemctl enable --now {SOCKET}")
    elif device.config.set_by["host"] != DEFAULT and f":{host.port} " not in f"{listens} ":
        yield warning(
            f"it listens on {listens}, not where {device.config.set_by['host']} says",
            f"hearth install-service --listen {host.name}:{host.port}",
        )
    else:
        yield ok(listens)


def check_sandbox(directory: Path) -> Iterator[Finding]:
    """Whether the service's sandbox lets the daemon write the directory; nothing is said where it does."""
    shown = _show(UNIT, "ProtectSystem", "ReadWritePaths") or {}
    allowed = [*WRITABLE, *(Path(word.lstrip("-+")) for word in shown.get("ReadWritePaths", "").split())]
    if shown.get("ProtectSystem") == "strict" and not any(directory.is_relative_to(path) for path in allowed):
        yield warning(
            f"the service's sandbox lets nobody write {directory}",
            f"`systemctl edit {UNIT}`, then [Service] and ReadWritePaths={directory}",
        )


def check_policy(device: Device) -> Iterator[Finding]:
    """Whether the file of models makes sense, and which of them are not here."""
    path = device.config.policy
    if path is None:
        yield ok("none; HEARTH_POLICY names a file of models to pull and to load at the start")
        return
    try:
        policy = read_policy(device.root / path.relative_to("/"))
    except HearthError as error:
        yield failure(str(error), "correct it, then `systemctl reload hearth`; docs/boot.md describes it")
        return
    store = ModelStore(device.config.models, writable=False)
    here = {model.name.key for model in store.models()} if device.config.models.is_dir() else set()
    for model in policy.models:
        if model.name.key not in here:
            advice = "it is pulled at the start" if model.pull else f"hearth pull {model.name.short}"
            yield warning(f"{model.name.short} is not here", advice)
    yield ok(f"{path} names {counted(len(policy.models), 'model')}")


def check_time(device: Device) -> Iterator[Finding]:
    """Whether somebody keeps the clock right, where systemd can tell."""
    if not (device.root / "run/systemd/system").is_dir():
        return
    told = _run("timedatectl", "show", "--property=NTPSynchronized", "--value")
    if (device.root / "run/systemd/timesync/synchronized").exists() or (told or "").strip() == "yes":
        yield ok("it is synchronised")
        return
    advice = "install systemd-timesyncd or chrony"
    if not any((device.root / "sys/class/rtc").glob("rtc*")):
        advice += "; this board has no clock of its own, and certificates look invalid until its time is right"
    yield warning("it is not synchronised", advice)


def check_swap(device: Device) -> Iterator[Finding]:
    """Where the service lives, something to swap to softens a shortage."""
    try:
        num_swaps = len((device.root / "proc/swaps").read_text().splitlines()) - 1
    except OSError:
        num_swaps = 0
    if num_swaps > 0:
        yield ok(counted(num_swaps, "device or file", "devices or files"))
    elif unit_path(device.root) is None:
        yield ok("none")
    else:
        yield warning("none", "zram softens a shortage of memory: install systemd-zram-generator")


# systemd


def _show(unit: str, *properties: str) -> dict[str, str] | None:
    """Properties of the unit; None: systemd does not answer."""
    text = _run("systemctl", "show", unit, f"--property={','.join(properties)}")
    return None if text is None else dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def _run(*command: str) -> str | None:
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "LC_ALL": "C"},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=MANAGER_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
