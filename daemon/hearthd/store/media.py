"""Media types of manifests, configs and layers, as registries and existing stores write them."""

from __future__ import annotations

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"

_LAYER = "application/vnd.ollama.image."

MODEL = _LAYER + "model"  # the checkpoint: GGUF
ADAPTER = _LAYER + "adapter"
PROJECTOR = _LAYER + "projector"
TEMPLATE = _LAYER + "template"
PROMPT = _LAYER + "prompt"  # the template's name in old stores
SYSTEM = _LAYER + "system"
PARAMS = _LAYER + "params"  # JSON object
MESSAGES = _LAYER + "messages"  # JSON list of {role, content}
LICENSE = _LAYER + "license"  # repeatable
TENSOR = _LAYER + "tensor"

# A checkpoint of several files: the index, which is its source, and its files; see store/files.py.
INDEX = "application/vnd.hearth.checkpoint.v1+json"
FILE = "application/vnd.hearth.checkpoint.file.v1"  # `name` is the file's name in the checkpoint

SOURCES = (MODEL, INDEX)  # whose digest stands for the checkpoint
CHECKPOINT = (MODEL, INDEX, FILE)  # all that a checkpoint consists of

# Converted models as layers; see store/shipped.py. Other tools keep layers whose types they do not know.
VARIANT = "application/vnd.hearth.variant.v1+json"  # variant.json; `name` is "<variant>/variant.json"
VARIANT_FILE = "application/vnd.hearth.variant.file.v1"  # any other file of it; `name` is "<variant>/<file>"
SOURCE = "application/vnd.hearth.source.v1+json"  # source.json
