"""Variants that travel with a model, as layers of its manifest.

    mediaType                                   name                         what
    application/vnd.hearth.variant.v1+json      <variant>/variant.json       a variant; its annotations hold
                                                                             hearth.source and hearth.provider
    application/vnd.hearth.variant.file.v1      <variant>/<file>             each of its files
    application/vnd.hearth.source.v1+json       source.json                  what the checkpoint says of itself

The layers are blobs like any other. On a device the variant's directory is made of hard links to them, so
that it takes no space of its own.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
from pathlib import Path

import msgspec

from hearthd.store import media
from hearthd.store.durable import DIR_MODE, explained, replace_directory
from hearthd.store.manifest import PROVIDER_NOTE, SOURCE_NOTE, Layer, Manifest
from hearthd.store.removal import unfinished
from hearthd.store.store import ModelStore
from hearthd.store.variant import SOURCE_FILE, VARIANT_FILE, read_variant

log = logging.getLogger(__name__)

PROVIDERS = frozenset(("cpu",))  # whose variants this device runs

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_NO_LINK = frozenset((errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS))


class ShippedVariant(msgspec.Struct, frozen=True):
    """A variant in a manifest."""

    name: str  # "cpu-int4"
    source: str  # digest of the checkpoint
    provider: str  # "cpu"
    layers: dict[str, Layer]  # by file name, variant.json among them

    @property
    def fits(self) -> bool:
        """Whether this device can run it."""
        return self.provider in PROVIDERS


def shipped_variants(manifest: Manifest) -> list[ShippedVariant]:
    """The variants in the manifest, malformed ones left out."""
    found = (_variant(manifest, layer) for layer in manifest.of(media.VARIANT))
    return [variant for variant in found if variant is not None]


def parts_for_device(manifest: Manifest) -> tuple[Layer, ...]:
    """The parts that this device wants: the needed ones, and the variants that it can run."""
    fitting = (layer for variant in shipped_variants(manifest) if variant.fits for layer in variant.layers.values())
    return (*manifest.needed, *fitting)


def install_shipped(store: ModelStore, manifest: Manifest) -> bool:
    """Make the directories of the shipped variants that fit and whose blobs are here; whether there is one now.

    Raises StoreError where the disk refuses.
    """
    fitting = [variant for variant in shipped_variants(manifest) if variant.fits]
    installed = [variant for variant in fitting if _is_installed(store, variant) or _install(store, variant)]
    if installed:
        _install_source(store, manifest, installed[0].source)
    return bool(installed)


def _variant(manifest: Manifest, descriptor: Layer) -> ShippedVariant | None:
    name, _, file = descriptor.name.partition("/")
    source = descriptor.annotations.get(SOURCE_NOTE, "")
    if not (_NAME.fullmatch(name) and file == VARIANT_FILE and _DIGEST.fullmatch(source)):
        return None
    layers = {VARIANT_FILE: descriptor}
    for layer in manifest.of(media.VARIANT_FILE):
        variant, _, file = layer.name.partition("/")
        if variant == name and _NAME.fullmatch(file):
            layers.setdefault(file, layer)
    return ShippedVariant(name, source, descriptor.annotations.get(PROVIDER_NOTE, ""), layers)


def _is_installed(store: ModelStore, variant: ShippedVariant) -> bool:
    return read_variant(store.variant_root(variant.source) / variant.name) is not None


def _install(store: ModelStore, variant: ShippedVariant) -> bool:
    root = store.variant_root(variant.source)
    if not all(store.blobs.has(layer.digest) for layer in variant.layers.values()):
        return False
    with explained(root), unfinished(root) as directory:
        for file, layer in variant.layers.items():
            _link(store.blobs.path(layer.digest), directory / file)
        if not _is_sound(directory, variant):
            log.warning("the shipped variant %s of %s cannot be used here", variant.name, variant.source)
            return False
        replace_directory(directory, root / variant.name)
    store.prompts.forget(variant.source)  # another graph evaluated them
    return True


def _is_sound(directory: Path, variant: ShippedVariant) -> bool:
    info = read_variant(directory)
    if info is None:
        return False
    files = {*info.files, info.graph, info.tokenizer}
    return info.source == variant.source and info.provider == variant.provider and files <= set(variant.layers)


def _install_source(store: ModelStore, manifest: Manifest, source: str) -> None:
    target = store.variant_root(source) / SOURCE_FILE
    layers = [layer for layer in manifest.of(media.SOURCE) if store.blobs.has(layer.digest)]
    if layers and not target.exists():
        with explained(target.parent):
            target.parent.mkdir(mode=DIR_MODE, parents=True, exist_ok=True)
            _link(store.blobs.path(layers[0].digest), target)


def _link(source: Path, target: Path) -> None:
    """Give the file a second name; a copy where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno == errno.EEXIST:
            return
        if error.errno not in _NO_LINK:
            raise
        shutil.copyfile(source, target)
