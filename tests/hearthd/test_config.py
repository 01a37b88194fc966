from __future__ import annotations

import logging
from dataclasses import fields
from pathlib import Path

import pytest

from hearthd import config
from hearthd.config import SETTINGS, Config, Host, load


def test_every_field_of_config_has_one_row() -> None:
    assert [row.name for row in SETTINGS] == [field.name for field in fields(Config)][:-1]
    variables = [variable for row in SETTINGS for variable in row.variables]
    assert len(variables) == len(set(variables))
    assert all(row.variables[0].startswith("HEARTH_") for row in SETTINGS)


def test_empty_environment_gives_the_defaults_without_a_warning() -> None:
    settings = load({"HOME": "/home/a"})
    assert settings.host == Host("http", "127.0.0.1", 11434)
    assert settings.models == Path("/home/a/.local/share/hearth/models")
    assert settings.cache == Path("/home/a/.cache/hearth/variants")
    assert settings.num_threads == 0
    assert settings.warnings == ()
    assert not settings.debug


def test_own_variable_wins_over_its_alias_unless_empty() -> None:
    assert load({"HEARTH_MAX_QUEUE": "1", "OLLAMA_MAX_QUEUE": "2"}).max_queue == 1
    assert load({"HEARTH_MAX_QUEUE": " ", "OLLAMA_MAX_QUEUE": "2"}).max_queue == 2


def test_models_directory_comes_from_xdg_where_it_is_absolute() -> None:
    assert load({"HOME": "/h", "XDG_DATA_HOME": "/data"}).models == Path("/data/hearth/models")
    assert load({"HOME": "/h", "XDG_DATA_HOME": "data"}).models == Path("/h/.local/share/hearth/models")


def test_models_directory_expands_home_and_becomes_absolute() -> None:
    assert load({"HEARTH_MODELS": "~/models"}).models == Path.home() / "models"
    assert load({"OLLAMA_MODELS": "'models'"}).models == Path.cwd() / "models"


@pytest.mark.parametrize(
    ("variable", "text", "field"),
    [
        ("HEARTH_KEEP_ALIVE", "soon", "keep_alive_ns"),
        ("HEARTH_LOAD_TIMEOUT", "1d", "load_timeout_ns"),
        ("HEARTH_DRAIN_TIMEOUT", "9" * 30, "drain_timeout_ns"),
        ("HEARTH_MAX_QUEUE", "-1", "max_queue"),
        ("HEARTH_MAX_BODY_BYTES", "64MB", "max_body_bytes"),
        ("HEARTH_NUM_THREADS", "²", "num_threads"),
        ("HEARTH_LOG_LEVEL", "loud", "log_level"),
        ("HEARTH_MODELS", "~nobody-of-that-name/models", "models"),
    ],
)
def test_unreadable_value_leaves_the_default_and_a_warning(variable: str, text: str, field: str) -> None:
    settings = load({"HOME": "/h", variable: text})
    assert getattr(settings, field) == getattr(load({"HOME": "/h"}), field)
    assert len(settings.warnings) == 1
    assert f"{variable}={text!r} is ignored" in settings.warnings[0]


def test_bad_port_keeps_the_host_and_warns() -> None:
    settings = load({"HEARTH_HOST": "example.com:99999"})
    assert settings.host == Host("http", "example.com", 11434)
    assert settings.warnings == (
        "HEARTH_HOST='example.com:99999' is ignored (port '99999' is not 0-65535); http://example.com:11434 is used",
    )


def test_https_listener_is_warned_about() -> None:
    assert "plain HTTP" in load({"HEARTH_HOST": "https://0.0.0.0"}).warnings[0]


def test_zero_means_the_default_where_zero_makes_no_sense() -> None:
    settings = load(dict.fromkeys(("HEARTH_CONTEXT_LENGTH", "HEARTH_NUM_PARALLEL", "HEARTH_MAX_LOADED_MODELS"), "0"))
    assert (settings.context_length, settings.num_parallel, settings.max_loaded_models) == (4096, 1, 3)


@pytest.mark.parametrize(
    ("text", "level"),
    [("WARN", logging.WARNING), ("trace", config.TRACE), ("99", config.TRACE), ("-99", logging.CRITICAL)],
)
def test_log_level_takes_names_and_numbers(text: str, level: int) -> None:
    assert load({"HEARTH_LOG_LEVEL": text}).log_level == level


def test_table_shows_every_setting_on_a_line_of_its_own() -> None:
    lines = config.settings_table().splitlines()
    assert len(lines) == 1 + len(SETTINGS)
    for line, row in zip(lines[1:], SETTINGS, strict=True):
        assert line.startswith(row.variables[0])
        assert line.endswith(row.help)
