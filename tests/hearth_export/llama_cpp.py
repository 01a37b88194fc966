"""llama.cpp as an oracle, through the HTTP server inside the xllamacpp wheel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class Tokenize(Protocol):
    def __call__(self, text: str, add_special: bool = False) -> list[int]: ...


@contextmanager
def tokenizer_of(path: Path) -> Iterator[Tokenize]:
    """Its ids for a text, with special tokens in the text parsed as such."""
    xllamacpp = pytest.importorskip("xllamacpp", reason="xllamacpp, the oracle, is not installed")
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.warmup, params.port, params.cpuparams.n_threads = 64, 1, False, 0, 1
    server = xllamacpp.Server(params)
    with httpx.Client(base_url=server.listening_address, trust_env=False) as client:

        def tokenize(text: str, add_special: bool = False) -> list[int]:
            body = {"content": text, "add_special": add_special, "parse_special": True}
            return [int(token) for token in client.post("/tokenize", json=body).raise_for_status().json()["tokens"]]

        yield tokenize


def next_log_probabilities(path: Path, ids: list[int], num_tokens: int, adapter: Path | None = None) -> Floats:
    """(num_tokens,) of the token after `ids`, with a LoRA adapter applied while it runs where one is given."""
    xllamacpp = pytest.importorskip("xllamacpp", reason="xllamacpp, the oracle, is not installed")
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.warmup, params.port, params.cpuparams.n_threads = 256, 1, False, 0, 1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    if adapter is not None:
        info = xllamacpp.CommonAdapterLoraInfo()
        info.path, info.scale = str(adapter), 1.0
        params.lora_adapters = [info]
    server = xllamacpp.Server(params)
    letter = [[100, 1000]]  # sampled whatever its probability: others may be half a character, which is not answered
    body = {"prompt": ids, "n_predict": 1, "n_probs": num_tokens, "temperature": 0, "logit_bias": letter}
    with httpx.Client(base_url=server.listening_address, trust_env=False, timeout=60) as client:
        answer = client.post("/completion", json=body).raise_for_status().json()
    found = np.full(num_tokens, np.nan, np.float32)
    for entry in answer["completion_probabilities"][0]["top_logprobs"]:
        found[entry["id"]] = entry["logprob"]
    return found
