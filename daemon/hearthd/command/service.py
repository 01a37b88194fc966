"""The verbs install-service and uninstall-service: they write the service's files and talk to systemctl(1)."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import sys
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hearthd import __version__, service
from hearthd.command.failure import CommandFailed
from hearthd.command.terminal import line
from hearthd.errors import HearthError
from hearthd.service import DEVICES, SOCKET, UNIT, Plan, Wishes

MODES = {service.ENV_FILE: 0o640}  # it may hold secrets
MODE = 0o644
HIDDEN = ("/home/", "/root/", "/run/user/", "/tmp/", "/var/tmp/")  # the service sees none of them
OLDEST = 247  # of systemd: Debian 11
JOURNAL_LINES = 15


def define_install(parser: ArgumentParser) -> None:
    """The arguments of install-service."""
    parser.add_argument("--listen", action="append", metavar="ADDRESS", help="where to listen; may be given again")
    parser.add_argument("--announce", action=BooleanOptionalAction, help="tell the local network by mDNS (avahi)")
    parser.add_argument("--starter", action=BooleanOptionalAction, help="on an empty store, make the starter model")
    devices = "let the service use devices; may be given again"
    parser.add_argument("--device", action="append", choices=(*DEVICES, "none"), help=devices)
    parser.add_argument("--no-start", action="store_true", help="do not start it before the next boot")
    parser.add_argument("--restart", action="store_true", help="start it again even where nothing changed")
    _add_common(parser)
    parser.add_argument("--program", metavar="PATH", help="the hearth that the service runs; this one by default")


def define_uninstall(parser: ArgumentParser) -> None:
    """The arguments of uninstall-service."""
    parser.add_argument("--purge", action="store_true", help="remove models, settings and the user as well")
    _add_common(parser)


def _add_common(parser: ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    parser.add_argument("--root", metavar="DIR", default="/", help="another root directory, such as that of an image")


def install(arguments: Namespace) -> int:
    """Have systemd run the daemon; the exit status."""
    system = _system(arguments)
    program = _program(arguments.program, system)
    wishes = Wishes(
        program=program,
        listen=_addresses(arguments.listen),
        announce=arguments.announce,
        starter=arguments.starter,
        devices=None if arguments.device is None else tuple(name for name in arguments.device if name != "none"),
        systemd=system.version(),
    )
    listened = service.addresses(Wishes(systemd=wishes.systemd), system.root)
    plan = service.installation(wishes, system.root).changes(system.root)
    system.apply(plan)
    system.call("systemd-sysusers", *system.rooted, "hearth.conf")
    system.call("systemd-tmpfiles", *system.rooted, "--create", "hearth.conf")
    listens = service.addresses(wishes, system.root)
    if system.runs and not arguments.no_start:
        changed = [name for name in (*plan.write, *plan.remove) if name != service.ANNOUNCEMENT]
        _start(system, must_restart=bool(changed) or arguments.restart, must_move=listens != listened)
    else:
        system.call("systemctl", *system.rooted, "--quiet", "enable", UNIT, SOCKET)
    _tell_installed(system, wishes, listens, is_started=system.runs and not arguments.no_start)
    return 0


def _start(system: _System, *, must_restart: bool, must_move: bool) -> None:
    """Enable and start; the socket is closed only where the address is another one."""
    system.call("systemctl", "daemon-reload")
    system.call("systemctl", "--quiet", "enable", UNIT, SOCKET)
    if must_move:
        system.call("systemctl", "stop", UNIT, SOCKET, may_fail=True)  # not there at the first installation
    try:
        system.call("systemctl", "start", SOCKET)
        system.call("systemctl", "restart" if must_restart else "start", UNIT)
    except CommandFailed as error:
        said = system.output("journalctl", "--no-pager", "--output=cat", f"--lines={JOURNAL_LINES}", f"--unit={UNIT}")
        sys.stderr.write("".join(f"  {line(text)}\n" for text in said.splitlines()))
        raise CommandFailed(f"{error}; what it said last stands above, `hearth check` may tell more") from None


def _tell_installed(system: _System, wishes: Wishes, listens: tuple[str, ...], *, is_started: bool) -> None:
    say = sys.stdout.write
    done = "runs as a service, now and after each boot" if is_started else "is a service that starts at the next boot"
    say(f"Hearth {__version__} {done}.\n" if not system.is_dry else "Nothing was done.\n")
    say(f"It listens at {', '.join(map(service.url, listens))}.\n")
    if not all(map(service.is_local, listens)):
        say("Other devices reach it at this device's name or address. The API asks nobody who they are.\n")
    elif (system.root / service.ANNOUNCEMENT).exists() or wishes.announce:
        say("It is announced, but only this device reaches it there: add --listen 0.0.0.0.\n")
    if wishes.announce and not (system.root / "usr/sbin/avahi-daemon").exists():
        say("avahi-daemon is not installed, so nobody hears of it: apt install avahi-daemon\n")
    say(
        f"Settings are in /{service.ENV_FILE}, models for the start in /{service.POLICY_FILE};\n"
        "`systemctl status hearth`, `journalctl -u hearth` and `hearth check` tell how it goes.\n"
    )


def uninstall(arguments: Namespace) -> int:
    """Take the service away; models and settings stay where nobody wants them gone."""
    system = _system(arguments)
    if system.runs:
        system.call("systemctl", "--quiet", "disable", "--now", UNIT, SOCKET, may_fail=True)
    else:
        system.call("systemctl", *system.rooted, "--quiet", "disable", UNIT, SOCKET, may_fail=True)
    system.apply(service.removal().changes(system.root))
    if system.runs:
        system.call("systemctl", "daemon-reload")
        system.call("systemctl", "--quiet", "reset-failed", UNIT, SOCKET, may_fail=True)
    if arguments.purge:
        for name in service.STATE:
            system.remove_tree(name)
        if system.has_user():
            system.call("userdel", *system.rooted, service.USER, may_fail=True)
    say = sys.stdout.write
    say("Nothing was done.\n" if system.is_dry else "The service is gone.\n")
    if not arguments.purge:
        say(f"Models and settings stay: {', '.join(f'/{name}' for name in service.STATE)}; --purge removes them.\n")
    return 0


def _addresses(given: list[str] | None) -> tuple[str, ...] | None:
    if given is None:
        return None
    try:
        return tuple(address for text in given for address in service.listen_streams(text))
    except HearthError as error:
        raise CommandFailed(str(error)) from None


def _program(given: str | None, system: _System) -> str:
    """The absolute path of the program that the service is to run. CommandFailed where it would not find it."""
    if given is None and system.rooted:
        given = service.PROGRAM
    if given is None:
        prefix = Path(sys.prefix)
        current = prefix.parent / "current"  # what an upgrade turns to the next version
        given = str((current if current.resolve() == prefix.resolve() else prefix) / "bin/hearth")
    if not given.startswith("/") or re.search(r"[\s%$\"'\\]", given):
        raise CommandFailed(
            f"the service cannot run {given[:200]!r}: an absolute path without blanks and signs is needed"
        )
    if not system.has_program(given):
        raise CommandFailed(f"there is no program {given}; install Hearth first, or say where it is with --program")
    if system.is_hidden(given):
        raise CommandFailed(
            f"the service does not see {given}: it is kept from people's and temporary files. "
            "Install Hearth to /opt/hearth with systemd/install.sh; docs/service.md tells how"
        )
    return given


def _system(arguments: Namespace) -> _System:
    root = Path(arguments.root).resolve()
    if not root.is_dir():
        raise CommandFailed(f"there is no directory {arguments.root}")
    system = _System(root, arguments.dry_run)
    if os.geteuid() != 0 and not arguments.dry_run:
        raise CommandFailed(f"only root may do that: sudo {Path(sys.argv[0]).name} {' '.join(sys.argv[1:])}")
    if shutil.which("systemctl") is None:
        raise CommandFailed("there is no systemctl here: this system is not run by systemd; use `hearth serve`")
    return system


@dataclass(frozen=True, slots=True)
class _System:
    """The system that the service is installed in."""

    root: Path
    is_dry: bool

    @property
    def rooted(self) -> tuple[str, ...]:
        """The option for programs that may work on another root directory."""
        return () if self.root == Path("/") else (f"--root={self.root}",)

    @property
    def runs(self) -> bool:
        """Whether systemd runs it at the moment."""
        return not self.rooted and Path("/run/systemd/system").is_dir()

    def version(self) -> int:
        """That of its systemd. CommandFailed where it is too old, or there is none."""
        libraries = [path.name for path in self.root.glob("usr/lib*/**/libsystemd-shared-*.so")]
        found = [int(number[1]) for name in libraries if (number := re.search(r"-(\d+)", name))]
        if not found and not self.rooted:
            found = [int(number) for number in self.output("systemctl", "--version").split()[1:2] if number.isdecimal()]
        if not found:
            raise CommandFailed(f"no systemd was found in {self.root}")
        if max(found) < OLDEST:
            raise CommandFailed(f"systemd {max(found)} is too old: {OLDEST} or newer is needed")
        return max(found)

    def has_program(self, path: str) -> bool:
        place = self.root / path.lstrip("/")
        return place.exists() or (bool(self.rooted) and place.is_symlink())  # that leads somewhere in the root

    def is_hidden(self, path: str) -> bool:
        """Whether the service does not see it; links are followed, but not in another root."""
        seen = "/" + os.path.normpath(path).lstrip("/")
        return seen.startswith(HIDDEN) or (not self.rooted and str(Path(path).resolve()).startswith(HIDDEN))

    def has_user(self) -> bool:
        if self.rooted:
            return f"\n{service.USER}:" in f"\n{service.read(self.root / 'etc/passwd') or ''}"
        with suppress(KeyError):
            return bool(pwd.getpwnam(service.USER))
        return False

    def apply(self, plan: Plan) -> None:
        """Write and remove files. CommandFailed names the one that could not be."""
        for name, text in (plan.write | plan.keep).items():
            self._say("write", name)
            if not self.is_dry:
                self._write(name, text)
        for name in plan.remove:
            self._say("remove", name)
            if not self.is_dry:
                (self.root / name).unlink(missing_ok=True)
                if "systemd/system/" in name:
                    with suppress(OSError):  # it holds others
                        (self.root / name).parent.rmdir()

    def _write(self, name: str, text: str) -> None:
        path = self.root / name
        partial = path.with_name(f".{path.name}.new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(text)
            partial.chmod(MODES.get(name, MODE))
            partial.rename(path)
        except OSError as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise CommandFailed(f"cannot write {path}: {error.strerror or error}") from None

    def remove_tree(self, name: str) -> None:
        self._say("remove", name)
        place = self.root / name
        if self.is_dry or not (place.exists() or place.is_symlink()):
            return
        try:
            shutil.rmtree(place.resolve())
            if place.is_symlink():
                place.unlink()
        except OSError as error:
            raise CommandFailed(f"cannot remove {place}: {error.strerror or error}") from None

    def call(self, *command: str, may_fail: bool = False) -> None:
        """Run a program of systemd. CommandFailed where it fails."""
        if self.is_dry:
            self._say("run", " ".join(command))
            return
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
            )
        except OSError as error:
            raise CommandFailed(f"cannot run {command[0]}: {error.strerror or error}") from None
        if done.returncode and not may_fail:
            reason = line(done.stderr.strip().replace("\n", "; ")) or f"status {done.returncode}"
            raise CommandFailed(f"`{' '.join(command)}` failed: {reason}")

    def output(self, *command: str) -> str:
        """What it says; "" where it cannot be run."""
        with suppress(OSError):
            return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False).stdout
        return ""

    def _say(self, verb: str, what: str) -> None:
        path = what if verb == "run" else self.root / what
        if self.is_dry:
            sys.stdout.write(f"would {verb} {path}\n")
