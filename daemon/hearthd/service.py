"""The files of the systemd service: what they are, where they lie, and what an installation makes of them.

Units are in /usr/local/lib/systemd/system; what `hearth install-service` was asked for is in drop-ins in
/etc/systemd/system, so a later installation that does not ask for it keeps it. Nothing here is run or written.
systemd.unit(5), systemd.service(5), sysusers.d(5), tmpfiles.d(5), avahi.service(5)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hearthd.config import SETTINGS, Setting
from hearthd.errors import HearthError
from hearthd.host import DEFAULT_PORT, Host, parse_host
from hearthd.values import Unreadable

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

UNIT, SOCKET, SLICE = "hearth.service", "hearth.socket", "hearth.slice"
UNITS, DROP_INS = "usr/local/lib/systemd/system", "etc/systemd/system"
ENV_FILE, POLICY_FILE = "etc/hearth/hearth.env", "etc/hearth/hearth.toml"
ANNOUNCEMENT = "etc/avahi/services/hearth.service"
LISTEN = f"{DROP_INS}/{SOCKET}.d/listen.conf"
STARTER = f"{DROP_INS}/{UNIT}.d/starter.conf"
PROGRAM = "/opt/hearth/current/bin/hearth"  # as hearth.service has it
DEVICES = ("cuda", "npu")
OLDER = (253, 257)  # versions of systemd before which hearth.service needs a drop-in
STATE = ("var/lib/hearth", "var/cache/hearth", "etc/hearth")  # what an installation leaves when it goes
USER = "hearth"
WIDTH = 100  # of the manual

# the environment that hearth.service gives the daemon
ENVIRONMENT = {
    "HOME": "/var/lib/hearth",
    "XDG_DATA_HOME": "/var/lib",
    "XDG_CACHE_HOME": "/var/cache",
    "HEARTH_POLICY": f"/{POLICY_FILE}",
    "HEARTH_ENV_FILE": f"/{ENV_FILE}",
}
# on settings that mean more to a service
NOTES = {
    "models": " Elsewhere it must belong to the user hearth, and the service be allowed to write there: "
    "`systemctl edit hearth`, then [Service] and ReadWritePaths=/mnt/disk/models.",
}


class BadAddress(HearthError):
    """Nothing that a socket unit could listen on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What somebody who installs the service asks for. None: as it is."""

    program: str = PROGRAM  # the absolute path of `hearth`
    listen: tuple[str, ...] | None = None  # lines of ListenStream=
    announce: bool | None = None
    starter: bool | None = None
    devices: tuple[str, ...] | None = None  # of DEVICES
    systemd: int  # its version


@dataclass(slots=True)
class Plan:
    """What is to be done to the files of a root directory; paths are relative to it."""

    write: dict[str, str] = field(default_factory=dict)  # with what they are to contain
    keep: dict[str, str] = field(default_factory=dict)  # the same, where there is none yet: they are the user's
    remove: list[str] = field(default_factory=list)

    def changes(self, root: Path) -> Plan:
        """Only what is not so already."""
        return Plan(
            {name: text for name, text in self.write.items() if read(root / name) != text},
            {name: text for name, text in self.keep.items() if not (root / name).exists()},
            [name for name in self.remove if (root / name).exists()],
        )


def source() -> Path:
    """The directory of the files that are copied: in the installed package, or beside the sources."""
    packaged = Path(__file__).parent / "units"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "systemd"


def installation(wishes: Wishes, root: Path) -> Plan:
    """The files of a service as it is wished."""
    files = source()
    plan = Plan()
    unit = (files / UNIT).read_text().replace(PROGRAM, wishes.program)
    plan.write[f"{UNITS}/{UNIT}"] = unit
    for name in (SOCKET, SLICE):
        plan.write[f"{UNITS}/{name}"] = (files / name).read_text()
    for version in OLDER:
        name = f"before-{version}.conf"
        _set(plan, f"{UNITS}/{UNIT}.d/{name}", (files / name).read_text(), wishes.systemd < version)
    plan.write["etc/sysusers.d/hearth.conf"] = (files / "hearth.sysusers").read_text()
    plan.write["etc/tmpfiles.d/hearth.conf"] = (files / "hearth.tmpfiles").read_text()
    plan.keep[ENV_FILE] = (files / "hearth.env").read_text()
    plan.keep[POLICY_FILE] = (files / "hearth.toml").read_text()
    if wishes.listen is not None:
        plan.write[LISTEN] = _listen_drop_in(wishes.listen)
    starts = f"[Service]\nExecStart=\nExecStart={wishes.program} serve --starter\n"
    _set(plan, STARTER, starts, _wanted(wishes.starter, root / STARTER))
    told = (files / "hearth.avahi").read_text().replace(str(DEFAULT_PORT), str(port(addresses(wishes, root)[0])))
    _set(plan, ANNOUNCEMENT, told, _wanted(wishes.announce, root / ANNOUNCEMENT))
    for device in DEVICES if wishes.devices is not None else ():
        text = (files / f"{device}.conf").read_text()
        _set(plan, _of_device(device), text, device in (wishes.devices or ()))
    return plan


def removal() -> Plan:
    """All that an installation made, but for STATE."""
    made = [f"{UNITS}/{name}" for name in (UNIT, SOCKET, SLICE)]
    made += [f"{UNITS}/{UNIT}.d/before-{version}.conf" for version in OLDER]
    made += ["etc/sysusers.d/hearth.conf", "etc/tmpfiles.d/hearth.conf", ANNOUNCEMENT, LISTEN, STARTER]
    return Plan(remove=made + [_of_device(device) for device in DEVICES])


def _of_device(device: str) -> str:
    return f"{DROP_INS}/{UNIT}.d/{device}.conf"


def _wanted(wish: bool | None, path: Path) -> bool:
    return path.exists() if wish is None else wish


def _set(plan: Plan, name: str, text: str, is_wanted: bool) -> None:
    if is_wanted:
        plan.write[name] = text
    else:
        plan.remove.append(name)


def read(path: Path) -> str | None:
    """The text of the file; None: there is none."""
    try:
        return path.read_text()
    except (FileNotFoundError, NotADirectoryError):
        return None


# addresses


def listen_streams(text: str) -> tuple[str, ...]:
    """What ListenStream= takes, for an address as HEARTH_HOST has it. BadAddress where it is none of this kind."""
    try:
        host = parse_host(text)
    except Unreadable as error:
        raise BadAddress(f"cannot listen at {text[:100]!r}: {error}") from None
    if host.scheme == "http" and not host.path and host.port:
        if host.name in ("", "*"):
            return (str(host.port),)
        if host.name == "localhost":
            return (f"127.0.0.1:{host.port}", f"[::1]:{host.port}")
        if (found := _ip(host.name)) is not None:
            return (f"[{found}]:{host.port}" if found.version == 6 else f"{found}:{host.port}",)
    raise BadAddress(
        f"cannot listen at {text[:100]!r}: it takes an address of this device, such as 0.0.0.0, "
        f"192.168.1.5:{DEFAULT_PORT}, [::1]:{DEFAULT_PORT}, or :{DEFAULT_PORT} for all of them"
    )


def _ip(name: str) -> IPv4Address | IPv6Address | None:
    from ipaddress import ip_address  # the daemon needs ENVIRONMENT only

    try:
        return None if "%" in name else ip_address(name)  # a unit file has no way to write a scope
    except ValueError:
        return None


def addresses(wishes: Wishes, root: Path) -> tuple[str, ...]:
    """The lines of ListenStream= that will be in force."""
    if wishes.listen is not None:
        return wishes.listen
    for text in (read(root / LISTEN), (source() / SOCKET).read_text()):
        found = [line.partition("=")[2] for line in (text or "").splitlines() if line.startswith("ListenStream=")]
        if named := tuple(line for line in found if line):
            return named
    return ()


def port(address: str) -> int:
    """That of a line of ListenStream=."""
    return int(address.rpartition(":")[2])


def url(address: str) -> str:
    """Where a client on this device finds what listens there."""
    name = address.rpartition(":")[0].strip("[]")
    return Host(name=name, port=port(address)).connectable.url


def is_local(address: str) -> bool:
    """Whether no other device reaches it."""
    found = _ip(address.rpartition(":")[0].strip("[]"))
    return found is not None and found.is_loopback


def _listen_drop_in(addresses: tuple[str, ...]) -> str:
    lines = "".join(f"ListenStream={address}\n" for address in addresses)
    return f"# Made by `hearth install-service --listen`.\n[Socket]\nListenStream=\n{lines}"


# the manual


def manual() -> str:
    """The text of hearth.env: every setting, what it means, and its default, for the service."""
    head = (
        "Settings of the service, as systemd.exec(5) reads an EnvironmentFile=: NAME=value, one a line. "
        "Each line below has the default; take the # away to change it. Then `systemctl reload hearth`: running "
        "requests go on. Settings marked [restart] take effect with `systemctl restart hearth`. "
        "`hearth check` tells what is wrong with them."
    )
    return "\n\n".join([_comment(head), *map(_entry, SETTINGS)]) + "\n"


def _entry(row: Setting) -> str:
    return "\n".join(_lines(row))


def _lines(row: Setting) -> Iterator[str]:
    name, *aliases = row.variables
    yield _comment(f"{_sentence(row)}{'' if row.live else ' [restart]'}")
    yield _comment(f"It takes {row.kind.accepts}.")
    if aliases:
        yield _comment(f"Also read: {', '.join(aliases)}.")
    yield f"#{name}={_default(row)}"


def _sentence(row: Setting) -> str:
    if row.name == "host":
        return "Where to listen. systemd listens for the service: use `hearth install-service --listen ADDRESS`."
    more = NOTES.get(row.name, "")
    return f"{row.help[0].upper()}{row.help[1:]}.{more}"


def _default(row: Setting) -> str:
    """As the service has it; "" where no value means none."""
    if given := ENVIRONMENT.get(row.variables[0]):
        return given
    shown = row.kind.show(row.default_in(ENVIRONMENT)) if callable(row.default) else row.shown
    return "" if shown in ("none", "local ones") else shown


def _comment(text: str) -> str:
    from textwrap import wrap

    return "\n".join(wrap(text, WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False))
