from __future__ import annotations

import pytest

from hearthd.errors import InvalidName
from hearthd.store import names


def test_defaults_fill_what_the_text_leaves_out() -> None:
    name = names.parse("llama3")
    assert name.full == "registry.ollama.ai/library/llama3:latest"
    assert name.path == ("registry.ollama.ai", "library", "llama3", "latest")
    assert name.scheme == "https"


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("llama3", "llama3:latest"),
        ("LLaMA3:8B", "LLaMA3:8B"),
        ("me/llama3", "me/llama3:latest"),
        ("registry.ollama.ai/library/llama3:8b", "llama3:8b"),
        ("registry.ollama.ai/me/llama3:8b", "me/llama3:8b"),
        ("localhost:5000/library/llama3", "localhost:5000/library/llama3:latest"),
        ("http://localhost:5000/me/m:t", "localhost:5000/me/m:t"),
    ],
)
def test_short_name_leaves_defaults_out_but_shows_the_tag(text: str, short: str) -> None:
    assert names.parse(text).short == short
    assert str(names.parse(text)) == short
    assert names.parse(short).path == names.parse(text).path


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "x:",
        ":x",
        "/x",
        "x/",
        "a/b/",
        "//",
        ".",
        "..",
        "../x",
        "a/../b",
        "a/./b",
        "../../../etc/passwd",
        "x:..",
        "x:.hidden",
        ".hidden/x",
        "a\\b",
        "a b",
        "a\0b",
        "a\n",
        "model@sha256:0",
        "na.me/x",
        "na:me/x",
        "é",
        "a/b/c/d",
        "://a/b/c",
        "ht tp://a/b/c",
        "m" * 81,
        "m:" + "t" * 81,
        "n" * 81 + "/m",
        "h" * 351 + "/n/m",
        "x" * 100_000,
    ],
)
def test_names_outside_the_grammar_are_refused(text: str) -> None:
    with pytest.raises(InvalidName) as caught:
        names.parse(text)
    assert str(caught.value) == "invalid model name"


def test_every_part_may_have_its_longest_form() -> None:
    text = f"{'h' * 350}/{'n' * 80}/{'m' * 80}:{'t' * 80}"
    assert names.parse(text).full == text


def test_manifest_path_gives_the_name_back() -> None:
    name = names.parse("h:1/n/m.x:t-1")
    assert names.from_path(name.path) == name


@pytest.mark.parametrize(
    "parts", [("a", "b", "c"), ("a", "b", "c", "d", "e"), ("..", "b", "c", "d"), ("a", "b", "", "d")]
)
def test_other_paths_are_no_names(parts: tuple[str, ...]) -> None:
    assert names.from_path(parts) is None


def test_names_differing_in_case_share_their_key() -> None:
    assert names.parse("Me/LLaMA3:8B").key == names.parse("me/llama3:8b").key


def test_local_mark_is_cut_and_cloud_is_told() -> None:
    assert names.split_origin("qwen3:8b:local") == ("qwen3:8b", names.Origin.LOCAL)
    assert names.is_cloud("gpt-oss:20b-CLOUD")
    assert not names.is_cloud("my-cloud")
    with pytest.raises(InvalidName):
        names.split_origin("foo:cloud:local")
