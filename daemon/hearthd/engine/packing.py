"""`python -m hearthd.engine.packing VARIANT_DIR [KV_TYPE]`: writes the form of a variant that packed.py tells of."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import numpy as np

from hearthd.engine.kvform import KVForm
from hearthd.engine.kvscales import form_of
from hearthd.engine.packed import GRAPH, PLACE, SEAL, Seal, place, source_files
from hearthd.engine.providers.provider import Provider, load_provider
from hearthd.engine.session import open_session
from hearthd.engine.tokens import Tokenizer
from hearthd.store.variant import VariantInfo, read_variant

TEMP_PREFIX = ".tmp-"
GROWTH = 3  # disk that packing may take, as a multiple of the variant's own; seen: 2.5
TRIAL_TOKENS = 33  # a whole tile, and one step in the kernels of a single token
USAGE = "usage: python -m hearthd.engine.packing VARIANT_DIR [KV_TYPE]"


class PackingError(Exception):
    """Why there are no packed weights, in a sentence."""


def pack(directory: Path, info: VariantInfo, form: KVForm) -> Path:
    """Writes the packed form of `form`'s graph, compares what both compute, and publishes it; where it is.

    Packed forms of the same graph for another device or version are removed. Raises PackingError, and what ONNX
    Runtime raises.
    """
    if info.binding is not None:
        raise PackingError("a graph that was taken as it is has no packed form")
    target = place(directory, form.graph)
    _require_space(directory, info)
    with _staged(directory / PLACE) as stage:
        provider = load_provider(info.provider, 0)
        _save(provider, directory / form.graph, stage / GRAPH)
        files = {path.name: path.stat().st_size for path in stage.iterdir()}
        _require_same(directory, info, form, str((stage / GRAPH).relative_to(directory)))
        (stage / SEAL).write_bytes(msgspec.json.encode(Seal(files, source_files(info))))
        _publish(stage, target)
    for other in target.parent.glob(f"{Path(form.graph).stem}-*"):
        if other != target:
            shutil.rmtree(other, ignore_errors=True)
    return target


def _save(provider: Provider, graph: Path, target: Path) -> None:
    if not provider.save_packed(graph, target):
        raise PackingError(f"the provider {provider.name} has no packed form")


def _require_space(directory: Path, info: VariantInfo) -> None:
    needed = GROWTH * sum(info.files.values())
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise PackingError(
            f"{directory}: packing may take {needed >> 20} MiB, and {free >> 20} MiB are free: make room and try again"
        )


@contextmanager
def _staged(parent: Path) -> Iterator[Path]:
    """A directory of its own in `parent`, gone afterwards; what an earlier process left there goes too."""
    parent.mkdir(exist_ok=True)
    for left in parent.glob(f"{TEMP_PREFIX}*"):
        shutil.rmtree(left, ignore_errors=True)
    stage = parent / f"{TEMP_PREFIX}{os.getpid()}"
    stage.mkdir()
    try:
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _require_same(directory: Path, info: VariantInfo, form: KVForm, graph: str) -> None:
    """Raises PackingError unless the graph at `graph` gives the very logits of the one it was made from."""
    packed = KVForm(form.name, graph, form.dtype, form.inputs)
    if not np.array_equal(_trial(directory, info, form), _trial(directory, info, packed)):
        raise PackingError(
            f"{directory}: packed weights give other results than the variant's own, so they are not used"
        )


def _trial(directory: Path, info: VariantInfo, form: KVForm) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Logits after a few tokens, and after one more: (2, V) float32."""
    tokens = [(7 * n + 1) % info.vocab_size for n in range(TRIAL_TOKENS)]
    session = open_session(directory, info, num_ctx=2 * TRIAL_TOKENS, form=form)
    rows = [session.evaluate(tokens[:-1]).copy(), session.evaluate(tokens[-1:], len(tokens) - 1).copy()]
    session.close()
    return np.stack(rows)


def _publish(stage: Path, target: Path) -> None:
    """Gives a finished directory its name, with every byte on the disk first."""
    for path in (*stage.iterdir(), stage):
        _sync(path)
    shutil.rmtree(target, ignore_errors=True)
    stage.rename(target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def main(arguments: list[str]) -> int:
    """Packs the variant's graph that holds keys and values as asked, or its own; the exit status."""
    if not 1 <= len(arguments) <= 2:
        sys.stderr.write(USAGE + "\n")
        return 2
    directory, kv_type = Path(arguments[0]), arguments[1] if len(arguments) > 1 else ""
    info = read_variant(directory)
    try:
        if info is None:
            raise PackingError(f"{directory}: no complete variant is there")
        pack(directory, info, _form(directory, info, kv_type))
    except Exception as error:
        sys.stderr.write(f"packing: {error}\n")
        return 1
    return 0


def _form(directory: Path, info: VariantInfo, kv_type: str) -> KVForm:
    tokenizer = Tokenizer(directory / info.tokenizer, info)
    return form_of(kv_type, directory, info, tokenizer.encode, load_provider(info.provider, 0).open)


if __name__ == "__main__":
    with suppress(OSError):  # a sandbox may forbid it; its cgroup has less of the processor then
        os.nice(19)  # whoever waits for a token goes first
    sys.exit(main(sys.argv[1:]))
