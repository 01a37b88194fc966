from __future__ import annotations

from pathlib import Path

import pytest

from hearthd.errors import InvalidDigest
from hearthd.store.prompts import SavedPrompts

FIRST, SECOND = "ab" * 32, "cd" * 32


@pytest.fixture
def prompts(tmp_path: Path) -> SavedPrompts:
    """Two checkpoints' prompts."""
    for source in (FIRST, SECOND):
        save(tmp_path / "prefixes", source)
    return SavedPrompts(tmp_path / "prefixes")


def save(root: Path, source: str, name: str = "a.kv") -> None:
    (root / source / "key").mkdir(parents=True, exist_ok=True)
    (root / source / "key" / name).write_bytes(b"tokens")


def files(prompts: SavedPrompts) -> list[str]:
    return sorted(str(path.relative_to(prompts.root)) for path in prompts.root.rglob("*") if path.is_file())


def test_a_checkpoints_prompts_go_alone(prompts: SavedPrompts) -> None:
    prompts.forget(f"sha256:{FIRST}")
    prompts.forget(f"sha256:{FIRST}")
    assert files(prompts) == [f"{SECOND}/key/a.kv"]


def test_what_is_no_digest_is_refused(prompts: SavedPrompts) -> None:
    with pytest.raises(InvalidDigest):
        prompts.forget("sha256:../..")
    assert len(files(prompts)) == 2


def test_a_directory_on_another_disk_is_emptied_and_its_link_stays(prompts: SavedPrompts, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(prompts.root)
    SavedPrompts(link).forget_all()
    assert files(prompts) == []
    assert link.is_dir()


def test_unfinished_files_and_empty_directories_are_tidied_away(prompts: SavedPrompts) -> None:
    save(prompts.root, SECOND, ".tmp-1-ab")
    (prompts.root / ("ef" * 32) / "key").mkdir(parents=True)
    prompts.tidy()
    assert files(prompts) == [f"{FIRST}/key/a.kv", f"{SECOND}/key/a.kv"]
    assert len(list(prompts.root.iterdir())) == 2


def test_without_a_directory_there_is_nothing_to_do(tmp_path: Path) -> None:
    prompts = SavedPrompts(tmp_path / "none")
    prompts.tidy()
    prompts.forget_all()
    prompts.forget(f"sha256:{FIRST}")
    assert list(tmp_path.iterdir()) == []
