from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from hearthd import config
from hearthd.config import Config
from hearthd.duration import FOREVER_NS, MINUTE_NS, SECOND_NS
from hearthd.values import TRACE

ROOT = Path(os.environ.get("HEARTH_CONFORMANCE", Path(__file__).parents[3] / "shared" / "conformance")) / "envconfig"

pytestmark = pytest.mark.skipif(not ROOT.exists(), reason=f"no conformance data at {ROOT}; set HEARTH_CONFORMANCE")

# the recorded durations lack their units where Go had products, so these are written out
LENGTHS_NS = {
    "": 5 * MINUTE_NS,
    " ": 5 * MINUTE_NS,
    "1s": SECOND_NS,
    "1m": MINUTE_NS,
    "1h": 60 * MINUTE_NS,
    "5m0s": 5 * MINUTE_NS,
    "1h2m3s": 3723 * SECOND_NS,
    "60": 60 * SECOND_NS,
    "120": 120 * SECOND_NS,
    "3600": 3600 * SECOND_NS,
    "-1": FOREVER_NS,
    "-1m": FOREVER_NS,
    "???": 5 * MINUTE_NS,
    "1d": 5 * MINUTE_NS,
    "1y": 5 * MINUTE_NS,
    "1w": 5 * MINUTE_NS,
}
LEVELS = {
    "slog.LevelInfo": logging.INFO,
    "slog.LevelDebug": logging.DEBUG,
    "logutil.LevelTrace": TRACE,
    "slog.LevelWarn": logging.WARNING,
    "slog.LevelError": logging.ERROR,
}


def recorded(test: str) -> Any:
    return json.loads((ROOT / f"{test}.json").read_text())


def loaded(variable: str, text: str) -> Config:
    return config.load({variable: text})


def test_hosts_are_read_as_recorded() -> None:
    for text, url in recorded("TestHost").values():
        assert loaded("OLLAMA_HOST", text).host.url == url, text


def test_connectable_hosts_are_as_recorded() -> None:
    for text, url in recorded("TestConnectableHost").values():
        assert loaded("OLLAMA_HOST", text).host.connectable.url == url, text


def test_origins_are_read_as_recorded() -> None:
    for text, want in recorded("TestOrigins"):
        assert list(loaded("OLLAMA_ORIGINS", text).origins) == want


def test_booleans_are_read_as_recorded() -> None:
    for text, want in recorded("TestBool").items():
        assert loaded("OLLAMA_NOPRUNE", text).noprune == want, text


def test_counts_are_read_as_recorded() -> None:
    for text, want in recorded("TestUint").items():
        got = loaded("OLLAMA_MAX_QUEUE", text).max_queue
        assert got == (512 if want == 11434 else want), text  # 11434 stands for the default there


def test_context_length_is_read_as_recorded() -> None:
    for text, want in recorded("TestContextLength").items():
        assert loaded("OLLAMA_CONTEXT_LENGTH", text).context_length == (want or 4096)


def test_values_lose_blanks_and_quotes_as_recorded() -> None:
    for text, want in recorded("TestVar").items():
        assert config.read_variable({"X": text}, "X") == want


def test_keep_alive_is_read_as_recorded() -> None:
    for text in recorded("TestKeepAlive"):
        assert loaded("OLLAMA_KEEP_ALIVE", text).keep_alive_ns == LENGTHS_NS.get(text, 0), text


def test_load_timeout_is_read_as_recorded() -> None:
    for text in recorded("TestLoadTimeout"):
        assert loaded("OLLAMA_LOAD_TIMEOUT", text).load_timeout_ns == LENGTHS_NS.get(text, FOREVER_NS), text


def test_log_levels_are_read_as_recorded() -> None:
    for text, want in recorded("TestLogLevel").items():
        assert loaded("OLLAMA_DEBUG", text).log_level == LEVELS[want["_ident"]], text
