"""What an execution provider does for a session."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import onnxruntime as ort

from hearthd.engine.providers import PROVIDERS

CPU = "cpu"  # the provider that every machine has

# set once opening a graph needs the interpreter no more: what holds its lock for long had better wait for that
opening = threading.Event()


class Opening:
    """No names, and a sign: it sets `opening` when it is asked for them."""

    def __iter__(self) -> Iterator[str]:
        opening.set()
        return iter(())


class Provider(Protocol):
    """Opens graphs on one kind of device."""

    name: str

    @property
    def device(self) -> str:
        """What runs the model, for people."""

    @property
    def prefill_chunk(self) -> int:
        """Tokens of a prompt that are best evaluated at once."""

    def open(self, graph: Path, *, wide: bool = False) -> ort.InferenceSession:
        """A session whose every node runs where the provider says. Errors are ONNX Runtime's own.

        `wide`: its steps are few, long and about as large as each other, so their memory is kept for the next one.
        """

    def save_packed(self, graph: Path, target: Path) -> bool:
        """Writes the graph to `target` with its weights as this device wants them; False where it has no such form."""


def load_provider(name: str, num_threads: int) -> Provider:
    """The provider called `name`; KeyError where no file implements it. `num_threads` 0: as many as cores."""
    module, cls = PROVIDERS[name].split(":")
    provider: Provider = getattr(importlib.import_module(module), cls)(num_threads)
    return provider
