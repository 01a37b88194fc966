"""A checkpoint's weights on their way into a graph: what holds each, what is fused, where it will lie."""

from __future__ import annotations

from dataclasses import dataclass, field

from hearth_export.checkpoint import Tensors
from hearth_export.errors import UnsupportedModel
from hearth_export.graph import Graph
from hearth_export.linear import multiply
from hearth_export.precision import Goal, Layout
from hearth_export.quantize import Matrix, Part, plan_embedding_layout, plan_layout, plan_matrix
from hearth_export.vector import Vector, check_vector


@dataclass(slots=True)
class Weights:
    """All weights of a graph under construction, planned and not yet written."""

    tensors: Tensors
    goal: Goal
    graph: Graph
    matrices: list[Matrix] = field(default_factory=list)
    gathered: list[Matrix] = field(default_factory=list)  # those of which rows are gathered
    vectors: list[Vector] = field(default_factory=list)
    holders: dict[str, str] = field(default_factory=dict)  # block type -> how it is held

    def has(self, name: str) -> bool:
        """Whether the checkpoint has a tensor of this name."""
        return name in self.tensors.tensors

    def linear(self, name: str, x: str, parts: tuple[Part, ...], layout: Layout, *, flat: bool = False) -> str:
        """x @ W.T (+ bias, where the checkpoint has any) as the value `name`; x (B, S, K), or (R, K) if `flat`."""
        return multiply(self.graph, name, x, self.plan(name, parts, layout), self.bias(name, parts), flat=flat)

    def fused(self, name: str, x: str, parts: tuple[Part, ...], num_inputs: int, goal: Goal | None = None) -> list[str]:
        """The products of x with the parts, held for `goal`: one value where all are held alike, else one a part."""
        layouts = [self.layout(part, num_inputs, goal) for part in parts]
        if len(set(layouts)) == 1:
            return [self.linear(name, x, parts, layouts[0])]
        return [self.linear(f"{name}.{i}", x, (part,), layouts[i]) for i, part in enumerate(parts)]

    def embedding(self, name: str, tensor: str, num_rows: int, num_inputs: int) -> Matrix:
        """A matrix of which rows can be gathered."""
        part = Part(tensor, num_rows)
        layout = plan_embedding_layout(self.tensors, part, num_inputs, self.goal)
        self._note(part, layout)
        matrix = self.plan(name, (part,), layout)
        self.gathered.append(matrix)
        return matrix

    def layout(self, part: Part, num_inputs: int, goal: Goal | None = None) -> Layout:
        """How a tensor is held for `goal`, or for the conversion's own. Floats stay what the conversion asks for."""
        if goal is None or self.goal is Goal.FLOAT:
            goal = self.goal
        layout = plan_layout(self.tensors, part, num_inputs, goal)
        self._note(part, layout)
        return layout

    def plan(self, name: str, parts: tuple[Part, ...], layout: Layout) -> Matrix:
        """The parts as a matrix in the data file."""
        matrix = plan_matrix(self.graph, name, parts, layout)
        self.matrices.append(matrix)
        return matrix

    def bias(self, name: str, parts: tuple[Part, ...], shape: tuple[int, ...] = ()) -> str:
        """The initializer of the parts' biases, zeros where one has none; "" where none has."""
        biases = tuple(_bias_of(part) for part in parts)
        if not any(self.has(tensor) for bias in biases for tensor in bias.tensors):
            return ""
        return self.vector(f"{name}.bias", biases, shape, optional=True)

    def vector(self, name: str, parts: tuple[Part, ...], shape: tuple[int, ...] = (), *, optional: bool = False) -> str:
        """The initializer `name` of all parts' values, (num_values,) unless a `shape` is given."""
        for part in parts:
            check_vector(self.tensors, part, optional)
        size = sum(part.num_rows for part in parts)
        vector = Vector(self.graph.reserve(size * 4), parts, optional)
        self.vectors.append(vector)
        return self.graph.external(name, "float32", [*(shape or (size,))], vector.region)

    def refuse_unused(self, kind: str, read_tensors: frozenset[str]) -> None:
        """UnsupportedModel for a tensor that a graph of this kind does not use: it would change what is computed."""
        pieces: list[Matrix | Vector] = [*self.matrices, *self.vectors]
        used = {tensor for piece in pieces for part in piece.parts for tensor in part.tensors}
        for name in self.tensors.tensors:
            if name not in used and name not in read_tensors:
                raise UnsupportedModel(
                    f"tensor {name} has no place in {kind}: this model is of a kind that cannot be converted "
                    "(where it has a Hugging Face checkpoint, the Optimum route may know it)"
                )

    def _note(self, part: Part, layout: Layout) -> None:
        """Tells for variant.json how the tensor's block type is held; "augap+off" where not always alike."""
        block_type = self.tensors.tensors[part.tensor].type
        known = self.holders.get(block_type, layout.holder.value).split("+")
        self.holders[block_type] = "+".join(sorted({*known, layout.holder.value}))


def _bias_of(part: Part) -> Part:
    tensor, mate = (name.removesuffix("weight") + "bias" if name else "" for name in (part.tensor, part.mate))
    return Part(tensor, part.num_rows, part.head_dim, part.expert, mate)
