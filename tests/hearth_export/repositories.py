"""Hugging Face repositories that hold a tokenizer and no model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from hearth_export.checkpoint import Checkpoint


class Repository:
    """A directory read as a checkpoint's files are."""

    format = "safetensors"

    def __init__(self, path: Path) -> None:
        self.path = path

    def read_file(self, name: str) -> bytes | None:
        path = self.path / name
        return path.read_bytes() if path.exists() else None


def repository(path: Path, files: Mapping[str, Any] = {}) -> Checkpoint:
    """Writes the files, text and bytes as they are and anything else as JSON, and opens the directory."""
    path.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if isinstance(content, bytes):
            (path / name).write_bytes(content)
        else:
            (path / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return cast(Checkpoint, Repository(path))
