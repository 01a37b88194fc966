"""What a spec lays over the layers that a model starts from: each type of layer by its own rule of merging."""

from __future__ import annotations

from typing import Any

import msgspec

from hearthd.errors import StoreError
from hearthd.registry.assembly import Assembly
from hearthd.registry.families import Family
from hearthd.registry.spec import CreateSpec
from hearthd.store import media
from hearthd.store.manifest import Layer

TEMPLATES = (media.TEMPLATE, media.PROMPT)


async def overlaid(assembly: Assembly, spec: CreateSpec, layers: list[Layer], family: Family | None) -> list[Layer]:
    """`layers` with what `spec` says; `family` says the rest where it is given.

    Template, system text and messages replace what is there, parameters merge key by key, licences are added.
    """
    work = _Overlay(assembly, layers)
    template = spec.template if spec.template is not None or family is None else family.template
    if template is not None:
        await work.replace(TEMPLATES, template.encode())
    if spec.system is not None:
        await work.replace((media.SYSTEM,), spec.system.encode())
    for text in spec.licenses:
        await work.add(media.LICENSE, text.encode())
    if params := _params_of(family) | spec.parameters:
        await work.replace((media.PARAMS,), msgspec.json.encode(work.params() | params))
    if spec.messages:
        await work.replace((media.MESSAGES,), msgspec.json.encode(spec.messages))
    return work.layers


def _params_of(family: Family | None) -> dict[str, Any]:
    return {"stop": family.stop, **family.parameters} if family else {}


class _Overlay:
    def __init__(self, assembly: Assembly, layers: list[Layer]) -> None:
        self._assembly = assembly
        self.layers = layers

    async def replace(self, media_types: tuple[str, ...], data: bytes) -> None:
        """Have `data` as the only layer of these types, or none of them where `data` is empty."""
        self.layers = [layer for layer in self.layers if layer.media_type not in media_types]
        if data:
            await self.add(media_types[0], data)

    async def add(self, media_type: str, data: bytes) -> None:
        """One more layer, unless the same is there."""
        layer = await self._assembly.put(media_type, data)
        self._assembly.tell(layer)
        if (layer.media_type, layer.digest) not in ((known.media_type, known.digest) for known in self.layers):
            self.layers = [*self.layers, layer]

    def params(self) -> dict[str, Any]:
        """The parameters that are there. Raises StoreError where they are damaged."""
        text = self._assembly.text(self.layers, media.PARAMS)
        try:
            return msgspec.json.decode(text or "{}", type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise StoreError(f"the parameters of the model that this one is made from are damaged: {error}") from error
