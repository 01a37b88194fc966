"""The variants that there are to be, by provider class, and how each is made."""

from __future__ import annotations

from dataclasses import dataclass

from hearth_export.errors import ExportError
from hearth_export.precision import Goal


@dataclass(frozen=True, slots=True)
class VariantClass:
    """One row of the table."""

    name: str
    provider: str  # the provider class that runs it
    holds: str
    goals: tuple[Goal, ...] = ()  # that make it, the default first; (): it cannot be made yet

    @property
    def is_built(self) -> bool:
        return bool(self.goals)


_INTEGERS = (Goal.BYTES, Goal.FIDELITY, Goal.PREFILL)
VARIANTS = (
    VariantClass("cpu-int4", "cpu", "4 bit weights, int8 arithmetic; floats are quantized to Q4_K_M", _INTEGERS),
    VariantClass("cpu-int8", "cpu", "8 bit weights, int8 arithmetic", _INTEGERS),
    VariantClass("cpu-f32", "cpu", "float32 weights and arithmetic: a reference", (Goal.FLOAT,)),
    VariantClass("cuda-int4-fp16", "cuda", "4 bit weights, float16 arithmetic and keys and values"),
    VariantClass("npu-qdq-static", "npu", "8 bit weights, 16 bit activations, static shapes"),
)


def variant_class(name: str) -> VariantClass:
    """The row of that name. ExportError where there is none, or it cannot be made yet."""
    row = next((row for row in VARIANTS if row.name == name), None)
    built = ", ".join(row.name for row in VARIANTS if row.is_built)
    if row is None:
        raise ExportError(f"there is no variant {name[:80]!r}; those that can be made are {built}")
    if not row.is_built:
        raise ExportError(
            f"the variant {name} ({row.holds}) cannot be made by this version; those that can be made are {built}"
        )
    return row


def goal_for(name: str, goal: Goal | None) -> Goal:
    """The goal that makes the variant `name` ("": any). ExportError where `goal` makes another."""
    if not name:
        return goal or Goal.BYTES
    row = variant_class(name)
    if goal is None:
        return row.goals[0]
    if goal not in row.goals:
        raise ExportError(f"--goal {goal} does not make {name}: take one of {', '.join(row.goals)}")
    return goal


def table() -> str:
    """The rows as text, a line each."""
    width = max(len(row.name) for row in VARIANTS)
    return "\n".join(f"  {row.name:{width}}  {row.holds}{'' if row.is_built else ' (not yet)'}" for row in VARIANTS)
