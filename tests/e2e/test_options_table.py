"""Every option of the contract, each with a request that it changes, on the starter model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.daemon import Daemon, running

pytestmark = pytest.mark.usefixtures("all_cores")

ROOT = Path(__file__).parents[2]
MODEL = "smollm2:135m"
PROMPT = "List some animals, one a line:\n"
BASE: dict[str, Any] = {"seed": 7, "num_predict": 24, "temperature": 1.2, "num_ctx": 512}
LONG = "The quick brown fox jumps over the lazy dog. " * 20

# option -> (what both requests have, what the second one changes)
TEXT_CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "seed": ({}, {"seed": 8}),
    "temperature": ({}, {"temperature": 0.1}),
    "top_k": ({}, {"top_k": 1}),
    "top_p": ({}, {"top_p": 0.05}),
    "min_p": ({}, {"min_p": 0.9}),
    "tfs_z": ({}, {"tfs_z": 0.05}),
    "typical_p": ({}, {"typical_p": 0.05}),
    "repeat_penalty": ({}, {"repeat_penalty": 3.0}),
    "repeat_last_n": ({"repeat_penalty": 3.0}, {"repeat_last_n": 1}),
    "presence_penalty": ({}, {"presence_penalty": 6.0}),
    "frequency_penalty": ({}, {"frequency_penalty": 4.0}),
    "penalize_newline": ({"repeat_penalty": 4.0, "temperature": 0}, {"penalize_newline": False}),
    "mirostat": ({}, {"mirostat": 2}),
    "mirostat_tau": ({"mirostat": 2}, {"mirostat_tau": 0.1}),
    "mirostat_eta": ({"mirostat": 1, "num_predict": 48}, {"mirostat_eta": 1.0}),
    "num_predict": ({}, {"num_predict": 5}),
    "num_ctx": ({"prompt": LONG, "temperature": 0}, {"num_ctx": 64}),
    "num_keep": ({"prompt": LONG, "temperature": 0, "num_ctx": 96}, {"num_keep": 48}),
}
# their effect is on the process, not on the text; a test below looks at it
SEEN_ON_THE_RUNNER = {"num_batch", "num_thread", "use_mmap", "use_mlock", "vocab_only"}
SEEN_OTHERWISE = {"stop"}
# accepted and without effect on a CPU; README gives the reason of each
WITHOUT_EFFECT = {"num_gpu", "main_gpu", "low_vram", "f16_kv", "logits_all", "numa"}
NEWER_THAN_THE_CONTRACT = {"min_p"}


@pytest.fixture(scope="module")
def daemon(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("options")) as daemon:
        daemon.create(MODEL, smollm2_gguf)
        yield daemon


def answer(daemon: Daemon, options: dict[str, Any]) -> dict[str, Any]:
    options = dict(options)
    prompt = options.pop("prompt", PROMPT)
    response = daemon.post("/api/generate", model=MODEL, prompt=prompt, stream=False, raw=True, options=options)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def status(daemon: Daemon, key: str) -> int:
    """A line of the runner's /proc/PID/status, in its unit."""
    (pid,) = daemon.runner_pids()
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1])


def test_no_option_of_the_contract_is_missing_here() -> None:
    contract = re.findall(r"[a-z]\w+", """
        num_keep seed num_predict top_k top_p tfs_z typical_p repeat_last_n temperature repeat_penalty
        presence_penalty frequency_penalty mirostat mirostat_tau mirostat_eta penalize_newline stop numa num_ctx
        num_batch num_gpu main_gpu low_vram f16_kv logits_all vocab_only use_mmap use_mlock num_thread
    """)  # fmt: skip
    assert len(contract) == 29
    shown = set(TEXT_CHANGES) - NEWER_THAN_THE_CONTRACT | SEEN_ON_THE_RUNNER | SEEN_OTHERWISE | WITHOUT_EFFECT
    assert shown == set(contract)


@pytest.mark.parametrize("option", TEXT_CHANGES)
def test_option_changes_the_text_and_nothing_else_does(daemon: Daemon, option: str) -> None:
    common, change = TEXT_CHANGES[option]
    base = BASE | common
    first, changed, again = (answer(daemon, options) for options in (base, base | change, base))
    assert first["response"] == again["response"]
    assert changed["response"] != first["response"]


def test_stop_ends_the_text_before_itself(daemon: Daemon) -> None:
    whole = answer(daemon, BASE | {"temperature": 0})["response"]
    stop = whole[8:12]
    stopped = answer(daemon, BASE | {"temperature": 0, "stop": [stop]})
    assert (stopped["response"], stopped["done_reason"]) == (whole[: whole.index(stop)], "stop")


@pytest.mark.parametrize("change", [{"num_batch": 8}, {"num_thread": 1}], ids=lambda change: next(iter(change)))
def test_load_time_option_loads_the_model_again_and_keeps_the_text(daemon: Daemon, change: dict[str, Any]) -> None:
    first = answer(daemon, BASE)
    before, num_threads = daemon.runner_pids(), status(daemon, "Threads")
    assert answer(daemon, BASE | change)["response"] == first["response"]
    assert daemon.runner_pids() != before
    if "num_thread" in change:
        assert status(daemon, "Threads") <= num_threads  # equal where there is one core


def test_use_mmap_off_reads_the_weights_into_memory(daemon: Daemon) -> None:
    text = answer(daemon, BASE | {"use_mmap": True})["response"]
    mapped = status(daemon, "RssFile")
    assert answer(daemon, BASE | {"use_mmap": False})["response"] == text
    assert status(daemon, "RssFile") < mapped


def test_use_mlock_keeps_the_weights_in_memory_or_says_why_not(daemon: Daemon) -> None:
    answer(daemon, BASE | {"use_mlock": True})
    assert status(daemon, "VmLck") > 10_000 or "mlock" in daemon.log


def test_vocab_only_loads_no_weights(daemon: Daemon) -> None:
    options = BASE | {"vocab_only": True}
    loaded = daemon.post("/api/generate", model=MODEL, options=options)
    assert loaded.json()["done_reason"] == "load"
    assert status(daemon, "VmRSS") < 100_000
    refused = daemon.post("/api/generate", model=MODEL, prompt="x", options=options)
    assert refused.status_code == 400
    assert "vocab_only" in refused.json()["error"]


@pytest.mark.parametrize("option", sorted(WITHOUT_EFFECT))
def test_option_without_effect_is_accepted_and_documented(daemon: Daemon, option: str) -> None:
    value: Any = 1 if option in ("num_gpu", "main_gpu") else option != "f16_kv"
    assert answer(daemon, BASE)["response"] == answer(daemon, BASE | {option: value})["response"]
    readme = (ROOT / "README.md").read_text()
    row = next(line for line in readme.splitlines() if line.startswith("|") and re.search(rf"\b{option}\b", line))
    assert "no effect" in row
