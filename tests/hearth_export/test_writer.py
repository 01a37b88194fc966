from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from hearth_export import writer
from hearth_export.errors import ExportError
from hearth_export.writer import DataFile, require_space, staged, staged_file, write_file
from hearthd.store.durable import replace_directory
from hearthd.store.store import ModelStore
from hearthd.store.variant import VARIANT_FILE, read_variant
from tests.conftest import convert
from tests.e2e.daemon import eventually
from tests.hearth_export.converted import DIGEST, converted

ATTEMPTS = 5


def hidden(root: Path) -> list[str]:
    return [path.name for path in root.iterdir() if path.name.startswith(".")]


def variants(models: Path) -> list[str]:
    """What a reader of the store sees."""
    return [path.name for path, _ in ModelStore(models).variants(DIGEST)]


def variant_root(models: Path) -> Path:
    return ModelStore(models).variant_root(DIGEST)


# -- files -------------------------------------------------------------------------------------------------------------


def test_data_file_holds_what_was_written_and_zeros_between(tmp_path: Path) -> None:
    with DataFile(tmp_path / "data", 40) as file:
        file.write(8, np.arange(3, dtype=np.float32))
        file.write(32, np.array([[1, 2], [3, 4]], np.uint8).T)
    content = (tmp_path / "data").read_bytes()
    assert content == bytes(8) + np.arange(3, dtype=np.float32).tobytes() + bytes(12) + b"\1\3\2\4" + bytes(4)


def test_large_data_file_that_threads_write_holds_every_byte_after_it_left_the_page_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "MEMORY_SHARE", 1 << 62)  # every file is large
    monkeypatch.setattr(writer, "SWEEP_BYTES", 1 << 18)
    values = np.random.default_rng(1).integers(0, 256, (400, 10_007), np.uint8)
    with DataFile(tmp_path / "data", values.nbytes) as file, ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda row: file.write(row * values.shape[1], values[row]), range(len(values))))
    assert (tmp_path / "data").read_bytes() == values.tobytes()


def test_data_file_takes_its_room_on_the_disk_at_once(tmp_path: Path) -> None:
    with DataFile(tmp_path / "data", 4 << 20):
        taken = (tmp_path / "data").stat().st_blocks * 512
    assert taken >= 4 << 20


def test_existing_file_is_never_written_over(tmp_path: Path) -> None:
    write_file(tmp_path / "file", b"old")
    with pytest.raises(FileExistsError):
        write_file(tmp_path / "file", b"new")
    with pytest.raises(FileExistsError):
        DataFile(tmp_path / "file", 8)
    assert (tmp_path / "file").read_bytes() == b"old"


def test_failure_leaves_no_stage_behind(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), staged(tmp_path) as stage:
        write_file(stage / "file", b"half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_failed_write_is_told_with_the_directory_and_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=rf"cannot be written under {tmp_path}: No such file"), staged(tmp_path) as at:
        write_file(at / "no" / "file", b"")


def test_publishing_replaces_what_was_there(tmp_path: Path) -> None:
    for content in (b"first", b"second"):
        with staged(tmp_path) as stage:
            write_file(stage / "file", content)
            replace_directory(stage, tmp_path / "target")
        assert (tmp_path / "target" / "file").read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_what_a_dead_conversion_left_goes_and_a_living_one_stays(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()", "hearth_export"], stdin=subprocess.PIPE)
    try:
        # a process that just began has no command line for a moment
        eventually(Path(f"/proc/{child.pid}/cmdline").read_bytes, "the process has begun")
        (tmp_path / f".tmp-{child.pid}-x").mkdir()
        (tmp_path / ".tmp-4194999-x").mkdir()  # above the largest process id
        with staged(tmp_path):
            assert f".tmp-{child.pid}-x" in hidden(tmp_path)
            assert ".tmp-4194999-x" not in hidden(tmp_path)
    finally:
        child.kill()
        child.communicate()


def test_unfinished_directory_is_never_taken_for_a_variant(tiny_gguf: Path, tmp_path: Path) -> None:
    complete = converted(tiny_gguf, variant_root(tmp_path))
    complete.rename(complete.with_name(".tmp-4194999-whole"))
    assert variants(tmp_path) == []
    converted(tiny_gguf, variant_root(tmp_path))
    assert variants(tmp_path) == ["cpu-int4"]
    assert hidden(variant_root(tmp_path)) == []


def test_damaged_source_description_is_written_anew(tiny_gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "source.json").write_text('{"half": ')
    converted(tiny_gguf, tmp_path)
    assert b'"architecture":"llama"' in (tmp_path / "source.json").read_bytes()


# -- conversions that are stopped --------------------------------------------------------------------------------------


def start(source: Path, root: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "hearth_export", "convert", str(source), "--digest", DIGEST, "--out", str(root)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def stop(child: subprocess.Popen[str], number: int, stage: str, num_lines: int) -> tuple[str, str]:
    """Sends the signal after so many progress lines of a stage; what the process still printed, and its errors."""
    assert child.stdout is not None
    for line in child.stdout:
        num_lines -= f'"{stage}"' in line
        if not num_lines:
            break
    child.send_signal(number)
    return child.communicate(timeout=60)


def stopped(
    source: Path, root: Path, number: int, stage: str, num_lines: int
) -> tuple[subprocess.Popen[str], str, str]:
    """As `stop`, of a conversion that was not over before; the process too."""
    for _ in range(ATTEMPTS):
        child = start(source, root)
        output, errors = stop(child, number, stage, num_lines)
        if child.returncode:
            return child, output, errors
        shutil.rmtree(root)
    raise AssertionError(f"{ATTEMPTS} conversions were over before they could be stopped")


@pytest.mark.parametrize(
    ("stage", "num_lines"), [("reading", 1), ("quantizing", 1), ("quantizing", 4), ("verifying", 2)]
)
def test_killed_conversion_leaves_no_variant_and_the_next_one_succeeds(
    smollm2_gguf: Path, tiny_gguf: Path, tmp_path: Path, stage: str, num_lines: int
) -> None:
    root = variant_root(tmp_path)
    child, _, _ = stopped(smollm2_gguf, root, signal.SIGKILL, stage, num_lines)
    assert child.returncode == -signal.SIGKILL
    assert variants(tmp_path) == []
    converted(tiny_gguf, root)
    assert variants(tmp_path) == ["cpu-int4"]
    assert hidden(root) == []


def test_a_conversion_is_offered_to_the_oom_killer_before_runners(smollm2_gguf: Path, tmp_path: Path) -> None:
    child = start(smollm2_gguf, tmp_path)
    assert child.stdout is not None
    child.stdout.readline()
    assert int(Path(f"/proc/{child.pid}/oom_score_adj").read_text()) == 600
    child.kill()
    child.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_conversion_that_is_asked_to_end_leaves_nothing(
    smollm2_gguf: Path, tmp_path: Path, number: signal.Signals
) -> None:
    root = tmp_path / "variants"
    child, output, errors = stopped(smollm2_gguf, root, number, "quantizing", 2)
    assert child.returncode == 128 + number
    assert f"stopped by {number.name}" in output.splitlines()[-1]
    assert (errors, list(root.iterdir())) == ("", [])


def test_conversion_whose_reader_went_away_ends_and_leaves_nothing(smollm2_gguf: Path, tmp_path: Path) -> None:
    child = start(smollm2_gguf, tmp_path)
    assert child.stdout is not None and child.stderr is not None
    child.stdout.readline()
    child.stdout.close()
    with child.stderr as stream:
        errors = stream.read()
    assert (child.wait(60), errors, list(tmp_path.iterdir())) == (1, "", [])


# -- single files ------------------------------------------------------------------------------------------------------


def test_staged_file_appears_under_its_name_when_whole(tmp_path: Path) -> None:
    with staged_file(tmp_path / "file") as temp:
        write_file(temp, b"new")
        assert [path.name for path in tmp_path.iterdir()] == hidden(tmp_path)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"new")]


def test_staged_file_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), staged_file(tmp_path / "file") as temp:
        write_file(temp, b"new")
        _ = 1 / 0
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"old")]


def test_staged_file_on_a_full_disk_is_told_and_nothing_stays(small_disk: Path) -> None:
    with pytest.raises(ExportError, match="is full"), staged_file(small_disk / "file") as temp:
        write_file(temp, bytes(100 << 20))
    assert list(small_disk.iterdir()) == []


# -- full disks --------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 80 MiB."""
    mount, at = shutil.which("mount"), tmp_path / "disk"
    at.mkdir()
    if mount is None or os.geteuid() or subprocess.run([mount, "-t", "tmpfs", "-o", "size=80m", "none", at]).returncode:
        pytest.skip("a small file system cannot be mounted here: that takes root")
    try:
        yield at
    finally:
        subprocess.run(["umount", at], check=True)


def test_disk_that_is_too_small_is_told_before_anything_is_written(small_disk: Path, smollm2_gguf: Path) -> None:
    with pytest.raises(ExportError, match=rf"not enough disk space under {small_disk}: .* needs \d+ MiB .* are free"):
        converted(smollm2_gguf, small_disk)
    assert list(small_disk.iterdir()) == []


def test_disk_that_fills_up_is_told_and_nothing_stays(small_disk: Path) -> None:
    with pytest.raises(ExportError, match=rf"the disk under {small_disk} is full"), staged(small_disk) as stage:
        DataFile(stage / "data", 100 << 20)
    with pytest.raises(ExportError, match=rf"the disk under {small_disk} is full"), staged(small_disk) as stage:
        write_file(stage / "file", bytes(100 << 20))
    assert list(small_disk.iterdir()) == []


def test_enough_room_is_no_error(tmp_path: Path) -> None:
    require_space(tmp_path, 1)


def test_file_beyond_the_largest_allowed_is_told_and_nothing_stays(smollm2_gguf: Path, tmp_path: Path) -> None:
    limited = ["sh", "-c", 'ulimit -f 20000; exec "$0" "$@"']
    command = [sys.executable, "-m", "hearth_export", "convert", str(smollm2_gguf), "--digest", DIGEST]
    done = subprocess.run([*limited, *command, "--out", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 1
    assert f"cannot be written under {tmp_path}: File too large" in done.stdout.splitlines()[-1]
    assert (done.stderr, list(tmp_path.iterdir())) == ("", [])


def test_directory_that_cannot_be_written_is_named(tiny_gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    child = start(tiny_gguf, tmp_path / "file" / "variants")
    output, errors = child.communicate()
    assert (child.returncode, errors) == (1, "")
    assert f'{{"error":"{tmp_path}/file' in output.splitlines()[-1]


def test_published_variant_names_every_file_with_its_size(tiny_gguf: Path, tmp_path: Path) -> None:
    directory = convert(tiny_gguf, tmp_path)
    info = read_variant(directory)
    assert info is not None
    present = {path.name: path.stat().st_size for path in directory.iterdir() if path.name != VARIANT_FILE}
    assert info.files == present
    assert set(present) == {"model.onnx", "model.q8_0.onnx", "model.onnx.data", "tokenizer.json"}
