"""A variant as a command line asks for it: by name, of a checkpoint that may have to be quantized first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hearth_export.checkpoint import open_checkpoint
from hearth_export.errors import ExportError, naming
from hearth_export.ggml import FLOAT_TYPES
from hearth_export.pipeline import convert
from hearth_export.plan import Planned, planned
from hearth_export.precision import Goal
from hearth_export.progress import Progress
from hearth_export.readers.repository import Repository
from hearth_export.requantize import requantize
from hearth_export.variants import goal_for
from hearthd.store.durable import temp_path

INT4, INT4_MIX = "cpu-int4", "Q4_K_M"  # what makes 4 bit weights of floats
SUPER_BLOCK, INT4_PLAIN = 256, "Q4_0"  # where rows do not split into its blocks


def converted(
    source: Path,
    digest: str,
    root: Path,
    report: Progress,
    *,
    variant: str = "",
    quantize: str = "",
    goal: Goal | None = None,
    route: str = "",
) -> str:
    """Makes a variant of `source`, a file or a directory, under `root`; the variant directory's name.

    `variant` ("": any) is refused where this checkpoint does not give it. Raises ExportError.
    """
    chosen = goal_for(variant, goal)
    if is_foreign(source, route):
        if quantize:
            raise ExportError(f"{source}: a graph of ONNX cannot be quantized to {quantize}; ask for a variant")
        return convert(source, digest, root, chosen, report, variant=variant, route=route)
    if variant:
        quantize = quantize or _mix_for(source, variant, chosen)
    if not quantize:
        return convert(source, digest, root, chosen, report)
    with _quantized(source, quantize, root, report) as made:
        try:
            if variant:
                _require(planned(made, chosen), variant)
            return convert(made, digest, root, chosen, report)
        except ExportError as error:
            raise type(error)(str(error).replace(str(made), f"{source} as {quantize.upper()}")) from error


def foreseen(source: Path, variant: str, quantize: str, goal: Goal | None, route: str = "") -> Planned:
    """What `converted` would make. Raises ExportError."""
    chosen = goal_for(variant, goal)
    if is_foreign(source, route):
        raise ExportError(f"{source}: what its graph takes is known once it is there; there is no dry run of it")
    quantize = quantize or (_mix_for(source, variant, chosen) if variant else "")
    if quantize:
        raise ExportError(
            f"what {quantize} gives is known once it is made: run 'hearth-export quantize {source} --to {quantize}' "
            "and have a dry run of its file"
        )
    return planned(source, chosen)


def is_foreign(source: Path, route: str) -> bool:
    """Whether the builder has no part in it: a ready graph, or one that Optimum makes."""
    with naming(source), open_checkpoint(source, route) as checkpoint:
        return isinstance(checkpoint, Repository)


def _mix_for(source: Path, variant: str, goal: Goal) -> str:
    """The file type that the checkpoint has to be quantized to for `variant`; "" where it is right as it is."""
    plan = planned(source, goal)
    if variant == INT4 and plan.variant != INT4 and plan.file_type in FLOAT_TYPES and plan.kind == "decoder":
        return INT4_MIX if plan.hidden_size % SUPER_BLOCK == 0 else INT4_PLAIN
    _require(plan, variant)
    return ""


def _require(plan: Planned, variant: str) -> None:
    if plan.variant != variant:
        raise ExportError(f"this checkpoint ({plan.file_type}) gives the variant {plan.variant}, not {variant}")


@contextmanager
def _quantized(source: Path, to: str, root: Path, report: Progress) -> Iterator[Path]:
    """A quantized copy in `root`, for as long as the block runs."""
    root.mkdir(parents=True, exist_ok=True)
    made = temp_path(root)
    try:
        requantize(source, to, made, lambda stage, done, total: report(f"{stage} to {to.upper()}", done, total))
        yield made
    finally:
        made.unlink(missing_ok=True)
