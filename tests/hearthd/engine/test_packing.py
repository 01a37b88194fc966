from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from hearthd.engine.frames import Load
from hearthd.engine.kvform import float_form
from hearthd.engine.loading import open_model
from hearthd.engine.packed import PLACE, SEAL, device_key, packed_graph
from hearthd.engine.packing import PackingError, main, pack
from hearthd.engine.session import Session
from hearthd.store.variant import VariantInfo, read_variant

X86 = "processor\t: 0\nmodel name\t: A\nflags\t\t: fpu avx2\ncpu MHz\t\t: 2400.1\n"
TOKENS = list(range(1, 40))


@pytest.fixture
def directory(tiny_variant: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_variant, tmp_path / "variant")


def info_of(directory: Path) -> VariantInfo:
    info = read_variant(directory)
    assert info is not None
    return info


def packed_in(directory: Path) -> str | None:
    info = info_of(directory)
    return packed_graph(directory, info, info.graph)


def logits(directory: Path, kv_type: str = "") -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """As a runner loads it, after a prompt and after one more token."""
    session = open_model(Load(str(directory), num_ctx=64, kv_type=kv_type)).session
    assert isinstance(session, Session)
    rows = [session.evaluate(TOKENS).copy(), session.evaluate([5], len(TOKENS)).copy()]
    session.close()
    return np.stack(rows)


def files_of(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def test_variant_without_packed_weights_has_no_packed_graph(directory: Path) -> None:
    assert packed_in(directory) is None


def test_packed_variant_gives_the_same_logits_to_the_bit(directory: Path) -> None:
    before = logits(directory)
    assert main([str(directory)]) == 0
    assert packed_in(directory) is not None
    np.testing.assert_array_equal(logits(directory), before)


def test_graph_with_quantized_keys_and_values_is_packed_beside_the_other(directory: Path) -> None:
    before = logits(directory, "q8_0")
    assert main([str(directory)]) == 0
    assert main([str(directory), "q8_0"]) == 0
    assert len(list((directory / PLACE).iterdir())) == 2
    np.testing.assert_array_equal(logits(directory, "q8_0"), before)


def test_runner_maps_the_packed_file(directory: Path) -> None:
    assert main([str(directory)]) == 0
    session = open_model(Load(str(directory), num_ctx=64)).session
    assert session is not None
    assert f"{(directory / PLACE).resolve()}/" in Path("/proc/self/maps").read_text()


def test_variant_stays_whole_for_those_who_read_its_files(directory: Path) -> None:
    before = info_of(directory)
    assert main([str(directory)]) == 0
    assert info_of(directory) == before


@pytest.mark.parametrize("victim", ["model.onnx", "model.onnx.data", SEAL])
def test_cut_file_makes_the_packed_form_invisible(directory: Path, victim: str) -> None:
    pack(directory, info_of(directory), float_form(info_of(directory)))
    (path,) = (directory / PLACE).glob(f"*/{victim}")
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)
    assert packed_in(directory) is None


def test_missing_file_makes_the_packed_form_invisible(directory: Path) -> None:
    target = pack(directory, info_of(directory), float_form(info_of(directory)))
    (target / "model.onnx.data").unlink()
    assert packed_in(directory) is None


def test_packed_form_of_another_build_of_the_variant_is_invisible(directory: Path) -> None:
    info = info_of(directory)
    pack(directory, info, float_form(info))
    other = structs.replace(info, files=info.files | {info.graph: info.files[info.graph] + 1})
    assert packed_graph(directory, other, info.graph) is None


def test_garbled_graph_is_passed_over_with_a_warning(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = logits(directory)
    graph = pack(directory, info_of(directory), float_form(info_of(directory))) / "model.onnx"
    graph.write_bytes(b"\xff" * graph.stat().st_size)
    np.testing.assert_array_equal(logits(directory), before)
    assert "packed weights are of no use" in caplog.text


@pytest.mark.parametrize("options", [{"use_mmap": False}, {"use_mlock": True}])
def test_weights_that_shall_not_be_mapped_come_from_the_variant_itself(
    directory: Path, options: dict[str, bool], caplog: pytest.LogCaptureFixture
) -> None:
    graph = pack(directory, info_of(directory), float_form(info_of(directory))) / "model.onnx"
    graph.write_bytes(b"\xff" * graph.stat().st_size)
    session = open_model(Load(str(directory), num_ctx=64, **options)).session  # type: ignore[arg-type]
    assert session is not None
    assert "packed weights" not in caplog.text


def test_form_for_another_processor_is_removed_when_one_is_made(directory: Path) -> None:
    info = info_of(directory)
    old = pack(directory, info, float_form(info))
    old.rename(old.with_name("model-0.0.0-00000000"))
    new = pack(directory, info, float_form(info))
    assert list((directory / PLACE).iterdir()) == [new]


def test_what_a_killed_process_left_is_removed(directory: Path) -> None:
    left = directory / PLACE / ".tmp-1"
    left.mkdir(parents=True)
    (left / "model.onnx.data").write_bytes(b"half")
    info = info_of(directory)
    pack(directory, info, float_form(info))
    assert not left.exists()


def test_packing_again_replaces_what_is_there(directory: Path) -> None:
    info = info_of(directory)
    first = pack(directory, info, float_form(info))
    assert pack(directory, info, float_form(info)) == first
    assert packed_in(directory) is not None


def test_full_disk_is_refused_before_anything_is_written(directory: Path) -> None:
    info = info_of(directory)
    before = files_of(directory)
    huge = structs.replace(info, files=info.files | {"model.onnx.data": 1 << 60})
    with pytest.raises(PackingError, match="make room"):
        pack(directory, huge, float_form(info))
    assert files_of(directory) == before


def test_failure_leaves_nothing_behind(directory: Path) -> None:
    info = info_of(directory)
    (directory / info.graph).write_bytes(b"\xff" * info.files[info.graph])
    before = files_of(directory)
    assert main([str(directory)]) == 1
    assert files_of(directory) == before


def test_directory_without_a_variant_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 1
    assert f"{tmp_path}: no complete variant" in capsys.readouterr().err


def test_wrong_arguments_show_how_it_is_called(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "VARIANT_DIR" in capsys.readouterr().err


def test_key_depends_on_the_processor_and_not_on_its_clock() -> None:
    assert device_key(X86) == device_key(X86.replace("2400.1", "800.0"))
    assert device_key(X86) == device_key(X86 + X86)
    assert device_key(X86) != device_key(X86.replace("avx2", "avx2 avx512f"))
    assert device_key(X86) != device_key(X86.replace(": A", ": B"))
