"""llama.cpp's tokenizer as an oracle, through the HTTP server inside the xllamacpp wheel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import httpx
import pytest


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
