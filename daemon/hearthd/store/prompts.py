"""The prompts that runners saved evaluated, as far as the store has to do with them: they go with their checkpoint.

    <root>/<hex of the source>/<key of what evaluated them>/<hex of the tokens>.kv

They hold what users wrote. The runners make them, read them and keep them within their bound.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from hearthd.store.blobs import digest_hex
from hearthd.store.durable import TEMP_PREFIX
from hearthd.store.removal import directories, remove_empty_below, remove_file, remove_tree


class SavedPrompts:
    """Those below `root`, which need not exist."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def forget(self, digest: str) -> None:
        """Remove those of a checkpoint. Raises InvalidDigest."""
        remove_tree(self.root / digest_hex(digest))

    def forget_all(self) -> None:
        """Remove those of every checkpoint."""
        self.forget_unused(())

    def forget_unused(self, used: Collection[str]) -> None:
        """Remove those of checkpoints whose hex digest is not in `used`."""
        for directory in directories(self.root, hidden=True):
            if directory.name not in used:
                remove_tree(directory)

    def tidy(self) -> None:
        """Remove what dead runners left unfinished. For the start of the daemon, when none runs."""
        for path in self.root.glob(f"*/*/{TEMP_PREFIX}*"):
            remove_file(path)
        remove_empty_below(self.root)
