"""Settings that change while the daemon runs: SIGHUP reads the file of variables again.

systemd gives a service its environment once. HEARTH_ENV_FILE names the file that it came from; what the file gave at
the start gives way to what it says now, and variables from elsewhere stay.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hearthd.config import ENV_FILE, SETTINGS, Config, Setting, load
from hearthd.envfile import read_env_file
from hearthd.errors import HearthError
from hearthd.service import ENV_FILE as SERVICE_FILE
from hearthd.service import ENVIRONMENT


class CannotReload(HearthError):
    """What was read cannot be put in force; the old settings stay."""


class Environment:
    """The variables of this process, and the file that some of them came from."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        name = environ.get(ENV_FILE, "")
        self.path = Path(name) if name else None
        try:
            given = self._read()
        except OSError:  # it is said at the first reload; systemd read it as root
            given = {}
        # what the unit gives is hidden by what its file gave
        below = ENVIRONMENT if self.path == Path("/", SERVICE_FILE) else {}
        self._rest = {**below, **{key: value for key, value in environ.items() if given.get(key) != value}}

    def now(self) -> dict[str, str]:
        """What a start at this moment would get. CannotReload where the file cannot be read."""
        try:
            return self._rest | self._read()
        except OSError as error:
            raise CannotReload(f"{self.path} cannot be read: {error.strerror or error}") from None

    def _read(self) -> dict[str, str]:
        try:
            return {} if self.path is None else read_env_file(self.path)
        except FileNotFoundError:
            return {}


@dataclass(frozen=True, slots=True)
class Change:
    """What a reload makes of the settings."""

    config: Config  # to be in force from now on
    changed: tuple[str, ...]  # variables whose value is another now
    awaiting: tuple[str, ...]  # variables whose value changes with the next start only


def change(old: Config, environment: Environment) -> Change:
    """What the environment asks for now, where it differs. CannotReload names every value that cannot be read."""
    new = load(environment.now())
    if new.faults:
        raise CannotReload("; ".join(new.faults))
    differing = [row for row in SETTINGS if getattr(old, row.name) != getattr(new, row.name)]
    fixed = [row for row in differing if not row.live]
    kept = {row.name: getattr(old, row.name) for row in fixed}
    set_by = {**new.set_by, **{row.name: old.set_by[row.name] for row in fixed}}
    return Change(
        replace(new, **kept, set_by=set_by),
        tuple(_variable(row, old, new) for row in differing if row.live),
        tuple(_variable(row, old, new) for row in fixed),
    )


def _variable(row: Setting, old: Config, new: Config) -> str:
    """The one that set it, or did."""
    return next((name for config in (new, old) if (name := config.set_by[row.name]) in row.variables), row.variables[0])
