"""`hearth check`: what would keep this device from serving models, and what to do about it.

Each row of CHECKS looks at one thing. Nothing is changed, and a daemon may be running.
"""

from __future__ import annotations

import errno
import http.client
import json
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from hearthd import __version__
from hearthd.access import Account, first_closed, is_open, service_account
from hearthd.checks import service
from hearthd.config import DEFAULT, SETTINGS, Config, load, table
from hearthd.errors import StoreError
from hearthd.finding import Check, Device, Finding, Verdict, amount, counted, failure, ok, warning
from hearthd.memory import Memory, Pressure, read_memory, read_pressure
from hearthd.scheduler import placement
from hearthd.service import ENV_FILE
from hearthd.store import audit
from hearthd.store.blobs import BlobStore
from hearthd.store.durable import free_bytes

LIBRARY_TIMEOUT_S = 60.0  # the first import on a slow card
ANSWER_TIMEOUT_S = 3.0
LOW_DISK_BYTES = 1 << 30
LOW_MEMORY_BYTES = 512 << 20
MAX_READ_BYTES = 1 << 20  # of a key, a credentials file, an answer
FIRST_SANE_YEAR = 2024


# the checks


def check_settings(device: Device) -> Iterator[Finding]:
    """Values that cannot be read, variables without effect."""
    config = device.config
    for fault in config.faults:
        yield failure(fault, "correct it: the daemon does not start with it")
    for text in config.warnings:
        yield warning(text, "unset what is not meant")
    num_set = sum(variable != DEFAULT for variable in config.set_by.values())
    if not config.faults:
        yield ok(f"{num_set} of {len(SETTINGS)} set, the rest by default")


def check_clock(device: Device) -> Iterator[Finding]:
    """Whether the clock was ever set: registries' certificates and the ages of files hang on it."""
    now = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    if time.localtime().tm_year < FIRST_SANE_YEAR:
        yield failure(f"it is said to be {now}", "set the clock; pulls fail and unused blobs look old without it")
    else:
        yield ok(now)
        yield from service.check_time(device)


def check_memory(device: Device) -> Iterator[Finding]:
    """What is left for models, and whether shortage can be seen coming."""
    yield from budget_findings(read_memory(), device.config.memory_bytes)
    yield pressure_finding(read_pressure())


def budget_findings(memory: Memory, memory_bytes: int) -> Iterator[Finding]:
    """What models may take, and what bounds it; `memory_bytes` is the setting."""
    for scope in memory.scopes:
        yield ok(f"{amount(scope.available_bytes)} of {amount(scope.total_bytes)} available to {scope.name}")
    usable_bytes, bound = placement.usable_bytes(memory), "what is available, less a reserve for the system"
    if memory_bytes and (usable_bytes is None or memory_bytes < usable_bytes):
        usable_bytes, bound = memory_bytes, "HEARTH_MEMORY"
    if usable_bytes is None:
        yield warning("/proc/meminfo cannot be read", "models are loaded without asking whether they fit")
        return
    text = f"models may take {amount(usable_bytes)} by {bound}"
    if usable_bytes < LOW_MEMORY_BYTES:
        yield warning(text, "only very small models fit; end other programs, unload models or raise the limit")
    else:
        yield ok(text)


def pressure_finding(pressure: Pressure) -> Finding:
    """Which signs of shortage this machine gives."""
    signs = {
        "stalls": pressure.some_avg10,
        "kills": pressure.num_oom_kills,
        "hits of the limit": pressure.num_limit_hits,
    }
    told = ", ".join(sign for sign, value in signs.items() if value is not None)
    untold = ", ".join(sign for sign, value in signs.items() if value is None)
    more = " (psi=1 in the kernel's command line may switch stalls on)" if pressure.some_avg10 is None else ""
    return ok(
        f"shortage is seen by available memory{f', {told}' if told else ''}"
        f"{f'; not told: {untold}{more}' if untold else ''}"
    )


def check_store(device: Device) -> Iterator[Finding]:
    """Whether the store can be read and written by the daemon, and the room in it."""
    root, account = device.config.models, device.account
    who = f" by the user {account.name}" if account else ""
    if not root.exists():
        yield _to_be_made(root, "HEARTH_MODELS", account)
    elif closed := first_closed(root, account):
        advice = f"chown -R {account.name}: {root}" if account else "give the daemon's user the right to read it"
        yield failure(f"{closed} cannot be read{who}", advice)
    elif not _is_writable(root, account):
        yield warning(f"{root} is read-only{who}", "models can be used, but not pulled, created or deleted")
    else:
        yield ok(f"{root} can be read and written{who}")
    if account:
        yield from service.check_sandbox(root)
    yield from _room(root)


def _is_writable(root: Path, account: Account | None) -> bool:
    kept = [path for path in (root, root / "manifests", root / "blobs") if path.exists()]
    return all(is_open(path, os.W_OK, account) for path in kept)


def _to_be_made(path: Path, variable: str, account: Account | None) -> Finding:
    parent = next(found for found in path.parents if found.exists())
    if is_open(parent, os.W_OK, account):
        return ok(f"{path} is made when it is needed")
    return failure(f"{path} cannot be made: {parent} is not writable", f"set {variable} to another directory")


def _room(directory: Path) -> Iterator[Finding]:
    free = free_bytes(directory)
    if free < LOW_DISK_BYTES:
        yield warning(f"only {amount(free)} free in {directory}", "make room before pulling or converting models")
    else:
        yield ok(f"{amount(free)} free")


def check_cache(device: Device) -> Iterator[Finding]:
    """Where converted models of a read-only store go."""
    cache, root, account = device.config.cache, device.config.models, device.account
    if not root.exists() or _is_writable(root, account):
        yield ok("not used: converted models lie in the store")
    elif not cache.exists():
        yield _to_be_made(cache, "HEARTH_CACHE", account)
    elif not is_open(cache, os.W_OK, account):
        yield failure(f"{cache} is not writable", "set HEARTH_CACHE to a writable directory")
    else:
        yield from _room(cache)


def check_models(device: Device) -> Iterator[Finding]:
    """Manifests that are damaged, blobs that are missing."""
    num_sound = 0
    for entry in audit.entries(device.config.models / "manifests"):
        if entry.manifest is None:
            yield failure(f"{entry.name}: {entry.reason}", "pull or create the model again, or delete the file")
            continue
        faults = audit.faults(device.blobs, entry.manifest)
        for fault in faults:
            yield failure(f"{entry.name}: {fault}", f"pull or create {entry.name} again")
        num_sound += not faults
    yield ok(f"{counted(num_sound, 'model')} with all blobs in their right size")


def check_blobs(device: Device) -> Iterator[Finding]:
    """Whether every blob is what its name says."""
    digests = device.blobs.digests()
    if not device.verify:
        yield ok(f"{counted(len(digests), 'blob')}, contents not looked at; --verify does")
        return
    damaged = 0
    for position, digest in enumerate(digests, 1):
        fault = _hashed(device.blobs, digest, f"blob {position} of {len(digests)}")
        damaged += bool(fault)
        if fault:
            yield failure(fault, "delete the file and pull or create its models again")
    yield ok(f"{counted(len(digests) - damaged, 'blob')} with the right content")


def _hashed(blobs: BlobStore, digest: str, label: str) -> str:
    """What is wrong with the blob's content; "" where nothing is. Tells a terminal how far it is."""
    report = partial(_tell_progress, label) if sys.stderr.isatty() else _tell_nothing
    try:
        return "" if audit.hash_blob(blobs, digest, report) else f"{blobs.path(digest)} is damaged"
    except StoreError as error:
        return str(error)
    finally:
        if sys.stderr.isatty():
            sys.stderr.write("\r\033[K")


def _tell_progress(label: str, done: int, total: int) -> None:
    if done % (64 << 20) == 0 or done == total:
        sys.stderr.write(f"\r{label}: {amount(done)} of {amount(total)}\033[K")
        sys.stderr.flush()


def _tell_nothing(done: int, total: int) -> None:
    return


def check_unfinished(device: Device) -> Iterator[Finding]:
    """Pulls and pushes that ended early."""
    found = audit.unfinished(device.blobs)
    if found.num_blobs:
        yield warning(
            f"{counted(found.num_blobs, 'blob')} pulled or pushed in part, {amount(found.num_bytes)} on disk",
            "pull or push the model again to go on; after a week they are removed",
        )
    else:
        yield ok("none")


def check_key(device: Device) -> Iterator[Finding]:
    """The key that signs for registries."""
    path = device.config.key
    if not path.exists():
        yield _to_be_made(path, "HEARTH_KEY", device.account)
        return
    text, fault = _read(path)
    if fault:
        yield failure(f"{path}: {fault}", "give the daemon's user the right to read it, or set HEARTH_KEY")
    elif "OPENSSH PRIVATE KEY" not in text:
        yield failure(f"{path} is no OpenSSH private key", "move it away, so that a new one is made")
    elif path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        yield warning(f"{path} can be read by others", f"chmod 600 {path}")
    else:
        yield ok(str(path))


def check_credentials(device: Device) -> Iterator[Finding]:
    """User names and passwords of registries; what they are is never said."""
    path = device.config.credentials
    if path is None:
        yield ok("none; registries are asked without a password")
        return
    text, fault = _read(path)
    registries = _auths(text)
    if fault:
        yield failure(f"{path}: {fault}", "correct HEARTH_CREDENTIALS, or unset it")
    elif registries is None:
        yield failure(f'{path} is not JSON with an object "auths"', "make it with `docker login`, or unset it")
    elif path.stat().st_mode & stat.S_IRWXO:
        yield warning(f"{path} can be read by everybody", f"chmod 600 {path}")
    else:
        yield ok(f"{path} has {counted(registries, 'registry', 'registries')}")


def _read(path: Path) -> tuple[str, str]:
    """The text of a small file, and why there is none."""
    try:
        if not path.is_file():
            return "", "no such file" if not path.exists() else "not a file"
        with path.open("rb") as file:
            return file.read(MAX_READ_BYTES).decode("utf-8", "replace"), ""
    except OSError as error:
        return "", error.strerror or str(error)


def _auths(text: str) -> int | None:
    """How many registries the file of credentials knows; None where it is none."""
    try:
        auths = json.loads(text)["auths"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return len(auths) if isinstance(auths, dict) else None


_IMPORTS = """
import importlib, sys
words = []
for name in sys.argv[1:]:
    module = importlib.import_module(name)
    words.append(f"{name} {getattr(module, '__version__', '')}".strip())
    words += getattr(module, "get_available_providers", list)()
print(*words, sep=", ")
"""


def check_libraries(*modules: str) -> Check:
    """A check that the modules can be imported together, in a process of their own."""

    def check(device: Device) -> Iterator[Finding]:
        try:
            done = subprocess.run(
                [sys.executable, "-c", _IMPORTS, *modules],
                env=dict(device.environ),
                capture_output=True,
                text=True,
                errors="replace",
                timeout=LIBRARY_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            yield failure(f"{', '.join(modules)}: no end within {LIBRARY_TIMEOUT_S:g} s", "install Hearth again")
            return
        if done.returncode == 0:
            yield ok(done.stdout.strip())
        else:
            yield failure(f"{', '.join(modules)}: {_last_line(done)}", "install Hearth again with its dependencies")

    return check


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return lines[-1][:300] if lines else f"the process ended with status {done.returncode}"


def check_address(device: Device) -> Iterator[Finding]:
    """Whether the daemon can listen, or who does."""
    host = device.config.host
    answer = _answer(device.config)
    if isinstance(answer, str):
        text = f"{host.url}: a server answers, version {answer} (this is {__version__})"
        is_this = answer == __version__
        yield ok(text) if is_this else warning(text, "start it again where it is to be this one")
    elif answer is None:
        yield _bindable(device.config)
    else:
        yield failure(f"{host.url} is taken: {answer}", "end what listens there, or set HEARTH_HOST to another port")


def _answer(config: Config) -> str | Exception | None:
    """The version of the server at the address; an exception where it is none of ours, None where nobody is."""
    host = config.host.connectable
    with closing(http.client.HTTPConnection(host.name, host.port, timeout=ANSWER_TIMEOUT_S)) as connection:
        try:
            connection.request("GET", "/api/version")
            return str(json.loads(connection.getresponse().read(MAX_READ_BYTES))["version"])[:40]
        except (ConnectionRefusedError, socket.gaierror):
            return None
        except TimeoutError:
            return ValueError(f"no answer within {ANSWER_TIMEOUT_S:g} s")
        except (OSError, http.client.HTTPException, ValueError, TypeError, KeyError, RecursionError) as error:
            return None if _is_unreachable(error) else ValueError("what answers is no server of this API")


def _is_unreachable(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL)


def _bindable(config: Config) -> Finding:
    """Whether a socket can be bound to the address; it is closed at once."""
    host = config.host
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host.name or None, host.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return failure(f"{host.url} cannot be listened on: {error.strerror}", "set HEARTH_HOST to another address")
    return ok(f"{host.url} is free; no daemon is running there")


def check_sharing(device: Device) -> Iterator[Finding]:
    """Whether other devices can pull from this one."""
    host = device.config.host
    if not device.config.share:
        yield ok("off; HEARTH_SHARE=1 lets other devices pull from this one")
    elif host.connectable == host and host.name in ("localhost", "127.0.0.1", "::1"):
        yield warning(f"on, but only this machine reaches {host.url}", f"set HEARTH_HOST=:{host.port}")
    else:
        yield ok(f"on: `hearth pull http://<this device>:{host.port}/library/<model>`")


CHECKS: tuple[tuple[str, Check], ...] = (
    ("settings", check_settings),
    ("service", service.check_service),
    ("socket", service.check_socket),
    ("policy", service.check_policy),
    ("clock", check_clock),
    ("memory", check_memory),
    ("swap", service.check_swap),
    ("store", check_store),
    ("cache", check_cache),
    ("models", check_models),
    ("blobs", check_blobs),
    ("unfinished", check_unfinished),
    ("runtime", check_libraries("onnxruntime", "numpy", "tokenizers")),
    ("converter", check_libraries("onnx", "hearth_export")),
    ("transfers", check_libraries("aiohttp", "cryptography")),
    ("key", check_key),
    ("credentials", check_credentials),
    ("address", check_address),
    ("sharing", check_sharing),
)


# the report


def main(environ: Mapping[str, str] = os.environ, *, verify: bool = False, root: Path = Path("/")) -> int:
    """Print the settings in force and a line a finding; 1 where something fails, else 0.

    Where a service is installed below `root` and `environ` has no setting, the settings are those of the service.
    """
    counts = dict.fromkeys(Verdict, 0)
    try:
        settings = service.service_environ(environ, root)
    except OSError as error:
        settings = environ
        counts[Verdict.FAIL] += 1
        _tell("settings", failure(f"{error.filename} cannot be read: {error.strerror}", "run it again with sudo"))
    if settings is not environ:
        _say(f"the settings of the service, from {service.unit_path(root)} and {root / ENV_FILE}:\n")
    config = load(settings)
    account = None if settings is environ else service_account()
    device = Device(settings, config, BlobStore(config.models / "blobs"), verify, root, account)
    _say(_settings(config) + "\n")
    for name, check in CHECKS:
        for finding in _findings(check, device):
            counts[finding.verdict] += 1
            _tell(name, finding)
    _say(f"\n{counted(counts[Verdict.FAIL], 'failure')}, {counted(counts[Verdict.WARNING], 'warning')}")
    return 1 if counts[Verdict.FAIL] else 0


def _findings(check: Check, device: Device) -> Iterator[Finding]:
    try:
        yield from check(device)
    except Exception as error:  # one broken check must not hide the others
        yield failure(f"could not be checked: {type(error).__name__}: {error}", "this is a fault of the check")


def _settings(config: Config) -> str:
    rows: list[tuple[str, ...]] = [("setting", "value", "set by")]
    rows += [(row.variables[0], row.kind.show(getattr(config, row.name)), config.set_by[row.name]) for row in SETTINGS]
    return table(rows)


def _tell(name: str, finding: Finding) -> None:
    _say(f"{finding.verdict:8} {name:12} {finding.text}")
    if finding.advice:
        _say(f"{'':21} -> {finding.advice}")


def _say(line: Any) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
