from __future__ import annotations

import logging
from dataclasses import fields
from pathlib import Path

import pytest

from hearthd import config
from hearthd.config import DEFAULT, SETTINGS, Config, Host, load
from hearthd.duration import FOREVER_NS, SECOND_NS
from hearthd.values import DEFAULT_ORIGINS, TRACE

NOT_ROWS = {"set_by", "faults", "warnings"}


def test_every_field_of_config_has_one_row() -> None:
    assert [row.name for row in SETTINGS] == [field.name for field in fields(Config) if field.name not in NOT_ROWS]
    variables = [variable for row in SETTINGS for variable in row.variables]
    assert len(variables) == len(set(variables))
    assert all(row.variables[0].startswith("HEARTH_") for row in SETTINGS)


def test_empty_environment_gives_the_defaults_without_a_word() -> None:
    settings = load({"HOME": "/home/a"})
    assert settings.host == Host("http", "127.0.0.1", 11434)
    assert settings.models == Path("/home/a/.local/share/hearth/models")
    assert settings.cache == Path("/home/a/.cache/hearth/variants")
    assert settings.key == Path("/home/a/.local/share/hearth/id_ed25519")
    assert settings.credentials is None
    assert not settings.share
    assert settings.num_threads == 0
    assert settings.warnings == ()
    assert settings.faults == ()
    assert set(settings.set_by.values()) == {DEFAULT}
    assert not settings.debug


def test_the_default_shown_is_the_one_in_force() -> None:
    for row in SETTINGS:
        default = row.default_in({"HOME": "~"})
        if "$" not in row.shown:
            assert row.kind.show(default).removeprefix("http://") == row.shown, row.name


def test_own_variable_wins_over_its_alias_unless_empty() -> None:
    own = load({"HEARTH_MAX_QUEUE": "1", "OLLAMA_MAX_QUEUE": "2"})
    assert (own.max_queue, own.set_by["max_queue"]) == (1, "HEARTH_MAX_QUEUE")
    alias = load({"HEARTH_MAX_QUEUE": " ", "OLLAMA_MAX_QUEUE": "2"})
    assert (alias.max_queue, alias.set_by["max_queue"]) == (2, "OLLAMA_MAX_QUEUE")


def test_models_directory_comes_from_xdg_where_it_is_absolute() -> None:
    assert load({"HOME": "/h", "XDG_DATA_HOME": "/data"}).models == Path("/data/hearth/models")
    assert load({"HOME": "/h", "XDG_DATA_HOME": "data"}).models == Path("/h/.local/share/hearth/models")


def test_models_directory_expands_home_and_becomes_absolute() -> None:
    assert load({"HEARTH_MODELS": "~/models"}).models == Path.home() / "models"
    assert load({"OLLAMA_MODELS": "'models'"}).models == Path.cwd() / "models"


@pytest.mark.parametrize(
    ("variable", "text", "field", "reason"),
    [
        ("HEARTH_KEEP_ALIVE", "soon", "keep_alive_ns", "it takes a duration such as 90s"),
        ("HEARTH_LOAD_TIMEOUT", "1d", "load_timeout_ns", "neither a duration nor a number of seconds"),
        ("HEARTH_DRAIN_TIMEOUT", "9" * 30, "drain_timeout_ns", "it takes a duration"),
        ("HEARTH_MAX_QUEUE", "-1", "max_queue", "not a whole number; it takes a whole number, 0 to"),
        ("HEARTH_MAX_QUEUE", "9" * 18, "max_queue", "more than 2147483648"),
        ("HEARTH_MAX_BODY_BYTES", "64 apples", "max_body_bytes", "it takes a number of bytes such as 65536"),
        ("HEARTH_NUM_THREADS", "²", "num_threads", "not a whole number"),
        ("HEARTH_NUM_THREADS", "5000", "num_threads", "more than 1024"),
        ("HEARTH_LOG_LEVEL", "loud", "log_level", "it takes trace, debug, info"),
        ("HEARTH_MODELS", "~nobody-of-that-name/models", "models", "it takes a path"),
        ("HEARTH_TRANSFER_STREAMS", "65", "transfer_streams", "more than 64"),
        ("HEARTH_TRANSFER_RATE", "fast", "transfer_rate", "it takes a number of bytes"),
        ("HEARTH_TRANSFER_RATE", "-5k", "transfer_rate", "it takes a number of bytes"),
    ],
)
def test_unreadable_value_leaves_the_default_and_a_fault(variable: str, text: str, field: str, reason: str) -> None:
    settings = load({"HOME": "/h", variable: text})
    assert getattr(settings, field) == getattr(load({"HOME": "/h"}), field)
    (fault,) = settings.faults
    assert fault.startswith(f"{variable}={text!r} cannot be used: ")
    assert reason in fault
    assert settings.set_by[field] == f"default: {variable} cannot be read"


def test_a_fault_shows_only_the_beginning_of_a_long_value() -> None:
    (fault,) = load({"HEARTH_LOG_LEVEL": "x" * 5000}).faults
    assert len(fault) < 300


@pytest.mark.parametrize(
    "text", ["hub.example", "https://user:word@hub.example", "https://hub.example/?q=1", "ftp://h"]
)
def test_an_endpoint_that_is_no_address_is_a_fault(text: str) -> None:
    settings = load({"HEARTH_HUB_ENDPOINT": text})
    assert settings.hub_endpoint == ""
    assert "it takes http://host or https://host" in settings.faults[0]


def test_the_hubs_own_variables_are_read() -> None:
    settings = load({"HF_ENDPOINT": "https://hub.example/mirror/", "HF_TOKEN": " hf_secret "})
    assert (settings.hub_endpoint, settings.hub_token) == ("https://hub.example/mirror", "hf_secret")


@pytest.mark.parametrize("text", ["hf_secret", "hf_secret and more", "hf_secr\u00e9t"])
def test_a_token_is_never_shown(text: str) -> None:
    environ = {"HF_TOKEN": text}
    settings = load(environ)
    assert "hf_sec" not in config.settings_table(environ) + repr(settings) + "".join(settings.faults)
    assert bool(settings.faults) == (text != "hf_secret")


def test_every_fault_is_told() -> None:
    assert len(load({"HEARTH_KEEP_ALIVE": "soon", "OLLAMA_MAX_QUEUE": "many"}).faults) == 2


def test_bad_port_keeps_the_host_and_is_a_fault() -> None:
    settings = load({"HEARTH_HOST": "example.com:99999"})
    assert settings.host == Host("http", "example.com", 11434)
    assert settings.faults == (
        "HEARTH_HOST='example.com:99999' cannot be used: port '99999' is not 0-65535; "
        "it takes [scheme://]host[:port], the port 0-65535",
    )


def test_a_goal_that_does_not_exist_is_a_fault_that_names_those_that_do() -> None:
    assert "it takes bytes, fidelity, prefill or float" in load({"HEARTH_GOAL": "speed"}).faults[0]
    assert load({"HEARTH_GOAL": "Fidelity"}).goal == "fidelity"


@pytest.mark.parametrize("text", ["off", "no", "maybe"])
def test_a_word_that_is_no_truth_value_is_a_fault(text: str) -> None:
    assert "it takes true or false" in load({"HEARTH_SHARE": text}).faults[0]


@pytest.mark.parametrize(("text", "want"), [("yes", True), ("on", True), ("1", True), ("false", False), ("0", False)])
def test_truth_values_are_read(text: str, want: bool) -> None:
    settings = load({"HEARTH_SHARE": text})
    assert (settings.share, settings.faults) == (want, ())


def test_https_listener_is_warned_about() -> None:
    assert "plain HTTP" in load({"HEARTH_HOST": "https://0.0.0.0"}).warnings[0]


def test_variables_without_effect_are_named_in_one_warning() -> None:
    (warning,) = load({"OLLAMA_FLASH_ATTENTION": "1", "OLLAMA_GPU_OVERHEAD": "1", "OLLAMA_VULKAN": ""}).warnings
    assert "OLLAMA_FLASH_ATTENTION (" in warning
    assert "OLLAMA_GPU_OVERHEAD (" in warning
    assert "OLLAMA_VULKAN" not in warning


def test_a_misspelt_variable_is_named_in_a_warning() -> None:
    (warning,) = load({"HEARTH_KEEPALIVE": "5m", "HEARTH_NOHISTORY": "1"}).warnings
    assert "HEARTH_KEEPALIVE" in warning
    assert "HEARTH_NOHISTORY" not in warning


def test_no_variable_is_both_a_setting_and_without_effect() -> None:
    assert config.IGNORED.keys().isdisjoint(variable for row in SETTINGS for variable in row.variables)


def test_zero_means_the_default_where_zero_makes_no_sense() -> None:
    variables = ("CONTEXT_LENGTH", "NUM_PARALLEL", "MAX_LOADED_MODELS", "TRANSFER_STREAMS", "MAX_BODY_BYTES")
    settings = load({f"HEARTH_{name}": "0" for name in variables})
    assert (settings.context_length, settings.num_parallel, settings.max_loaded_models) == (4096, 1, 3)
    assert (settings.transfer_streams, settings.max_body_bytes) == (4, 64 << 20)


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [("0", 0), ("65536", 65536), ("500k", 500_000), ("2MiB", 2 << 20), ("10MB", 10**7), ("1.5 G", 1_500_000_000)],
)
def test_sizes_take_units(text: str, num_bytes: int) -> None:
    assert load({"HEARTH_TRANSFER_RATE": text}).transfer_rate == num_bytes


def test_a_stall_timeout_of_zero_is_never() -> None:
    assert load({"HEARTH_TRANSFER_STALL": "0"}).transfer_stall_ns == FOREVER_NS
    assert load({"HEARTH_TRANSFER_STALL": "7"}).transfer_stall_ns == 7 * SECOND_NS


@pytest.mark.parametrize(
    ("text", "level"),
    [("WARN", logging.WARNING), ("trace", TRACE), ("99", TRACE), ("-99", logging.CRITICAL)],
)
def test_log_level_takes_names_and_numbers(text: str, level: int) -> None:
    assert load({"HEARTH_LOG_LEVEL": text}).log_level == level


def test_table_shows_every_setting_on_a_line_of_its_own() -> None:
    lines = config.settings_table().splitlines()
    assert len(lines) == 1 + len(SETTINGS)
    for line, row in zip(lines[1:], SETTINGS, strict=True):
        assert line.startswith(row.variables[0])
        assert line.endswith(row.help)


@pytest.mark.parametrize(
    ("variable", "text", "shown"),
    [
        ("OLLAMA_HOST", "0.0.0.0", "http://0.0.0.0:11434"),
        ("HEARTH_MODELS", "/m", "/m"),
        ("OLLAMA_KEEP_ALIVE", "-1", "forever"),
        ("HEARTH_LOAD_TIMEOUT", "5400", "1h30m"),
        ("HEARTH_DRAIN_TIMEOUT", "61500ms", "1m1.5s"),
        ("HEARTH_TRANSFER_STALL", "250ms", "0.25s"),
        ("OLLAMA_ORIGINS", "http://a.example,http://b.example", "http://a.example,http://b.example,local ones"),
        ("OLLAMA_DEBUG", "2", "trace"),
        ("OLLAMA_DEBUG", "-9", "critical"),
        ("OLLAMA_DEBUG_LOG_REQUESTS", "1", "true"),
        ("HEARTH_CREDENTIALS", "/root/config.json", "/root/config.json"),
        ("HEARTH_TRANSFER_RATE", "1MiB", "1048576"),
    ],
)
def test_table_shows_the_value_in_force_and_what_set_it(variable: str, text: str, shown: str) -> None:
    (line,) = (line for line in config.settings_table({variable: text}).splitlines() if f"{variable} " in line)
    words = line.partition(variable)[2].split("  ")
    cells = [word.strip() for word in words if word.strip()]
    assert cells[-3:-1] == [shown, variable]


def test_table_says_which_variable_cannot_be_read() -> None:
    assert "5m" in config.settings_table({"HEARTH_KEEP_ALIVE": "soon"})
    assert "default: HEARTH_KEEP_ALIVE cannot be read" in config.settings_table({"HEARTH_KEEP_ALIVE": "soon"})


def test_origins_end_with_those_always_allowed() -> None:
    assert load({"HEARTH_ORIGINS": " a , ,b"}).origins == ("a", "b", *DEFAULT_ORIGINS)
