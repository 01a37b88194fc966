"""A variant's weights arranged for this device's processor, in files: made once, by a child process."""

from __future__ import annotations

import asyncio
import logging
import sys
from contextlib import suppress
from pathlib import Path

from hearthd import cage
from hearthd.store.variant import PACKED, VariantInfo

log = logging.getLogger(__name__)

STDERR_BYTES = 8 << 10

_refused: set[Path] = set()  # variants that cannot be packed; said once


async def ensure_packed(directory: Path, info: VariantInfo, kv_type: str) -> None:
    """Packs the variant's weights unless that was done; a warning where it cannot be: the model runs without.

    What an older ONNX Runtime packed is not replaced before the variant is converted again; the runner does without it.
    """
    graph = Path(info.kv_graphs.get(kv_type, info.graph))
    if directory in _refused or any((directory / PACKED).glob(f"{graph.stem}-*")):
        return
    log.info("packing the weights of %s", directory.parent.name[:12])
    cell = cage.current().cell("packing")
    command = (sys.executable, "-P", "-m", "hearthd.engine.packing", str(directory), kv_type)
    try:
        process = await asyncio.create_subprocess_exec(
            *cell.wrap(command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            _, said = await process.communicate()
        except asyncio.CancelledError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise
    finally:
        cell.close()
    if process.returncode:
        _refused.add(directory)
        lines = said[-STDERR_BYTES:].decode(errors="replace").splitlines() or [f"exit status {process.returncode}"]
        log.warning("the weights are not packed: %s", lines[-1])
