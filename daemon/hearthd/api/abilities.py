"""What a model can do, for listings and for refusing what it cannot."""

from __future__ import annotations

from pathlib import Path

from hearthd.registry.capabilities import capabilities
from hearthd.store.store import ModelStore, StoredModel
from hearthd.store.variant import SOURCE_FILE, SourceInfo

SERVED = ("completion", "tools", "insert", "thinking", "embedding")  # in the order of listings
MAX_KNOWN = 1024

_known: dict[tuple[Path, str], frozenset[str]] = {}  # reading templates takes longer than a listing may


def abilities(store: ModelStore, model: StoredModel, source: SourceInfo | None = None) -> tuple[str, ...]:
    """Told by its checkpoint and its template, and what its config adds; of these, what this version serves.

    A model that was not converted yet is known by its config alone, unless `source` is given.
    """
    told = _told(store, model) or (capabilities(source, own_template(store, model)) if source else ())
    found = {*told, *model.config.capabilities} or {"completion"}
    return tuple(name for name in SERVED if name in found)


def _told(store: ModelStore, model: StoredModel) -> frozenset[str]:
    if model.source is None or not (path := store.variant_root(model.source) / SOURCE_FILE).exists():
        return frozenset()
    key = (path, model.digest)
    if key not in _known:
        if len(_known) >= MAX_KNOWN:
            _known.clear()
        _known[key] = _read(store, model, model.source)
    return _known[key]


def _read(store: ModelStore, model: StoredModel, digest: str) -> frozenset[str]:
    source = store.source_info(digest)
    return frozenset(capabilities(source, own_template(store, model))) if source else frozenset()


def own_template(store: ModelStore, model: StoredModel) -> str:
    """The model's TEMPLATE; "" where it has none, or names a renderer in its place, so that the checkpoint's counts."""
    return "" if model.config.renderer else store.contents(model).template
