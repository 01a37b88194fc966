from __future__ import annotations

import logging
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hearthd.engine.kvcache import KVCache
from hearthd.engine.kvform import KVForm, float_form
from hearthd.engine.prefixes import SavedPrefixes, prefix_key
from hearthd.store.durable import free_bytes
from hearthd.store.variant import RopeInfo
from tests.variant_info import variant_info

NUM_CTX = 512
TILE = 32
MIB = 1 << 20
INFO = variant_info(num_layers=3, num_kv_heads=2, head_dim=8, context_length=NUM_CTX)
SHAPE = (INFO.num_layers, 2, INFO.num_kv_heads, INFO.head_dim)
KEY = "0" * 64 + "/" + "1" * 64
TOKEN_BYTES = INFO.kv_bytes_per_token

MakeSaved = Callable[..., SavedPrefixes]
Slot = NDArray[np.generic]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "models" / "prefixes"


@pytest.fixture
def make(root: Path) -> MakeSaved:
    """make(key=.., max_bytes=.., dtype=.., shape=.., root=..): as a runner opens it."""

    def make(
        *,
        key: str = KEY,
        max_bytes: int = MIB,
        dtype: str = "float32",
        shape: tuple[int, int, int, int] = SHAPE,
        root: Path = root,
        **options: int,
    ) -> SavedPrefixes:
        return SavedPrefixes(root, key, max_bytes, shape, dtype, **options)

    return make


@pytest.fixture
def saved(make: MakeSaved) -> SavedPrefixes:
    return make()


def evaluated(seed: int = 0, dtype: str = "float32") -> KVCache:
    """Three slots, the middle one full of other numbers for every seed."""
    cache = KVCache(INFO, NUM_CTX, 3, dtype)
    slot = cache.slot(1)
    slot[...] = np.random.default_rng(seed).integers(-128, 127, slot.shape)
    return cache


def numbers(first: int, end: int) -> list[int]:
    return list(range(first, end))


def files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


def size(root: Path) -> int:
    return sum(path.stat().st_size for path in files(root))


def found_tokens(saved: SavedPrefixes, prompt: list[int], *, exact: bool = False) -> int:
    found = saved.longest(prompt, exact=exact, tile=TILE)
    return 0 if found is None else found.num_tokens


def read(saved: SavedPrefixes, prompt: list[int]) -> Slot:
    """The leading positions that `prompt` finds, read into a slot between two others, which stay as they were."""
    cache = KVCache(INFO, NUM_CTX, 3)
    cache.values[...] = 7
    found = saved.longest(prompt, exact=False, tile=TILE)
    assert found is not None
    assert saved.read(found, cache.slot(1))
    for untouched in (cache.slot(0), cache.slot(2), cache.slot(1)[..., found.num_tokens :, :]):
        assert (untouched == 7).all()
    positions: Slot = cache.slot(1)[..., : found.num_tokens, :]
    return positions


def first_of(cache: KVCache, num_tokens: int) -> Slot:
    positions: Slot = cache.slot(1)[..., :num_tokens, :]
    return positions


# what is found


def test_what_one_runner_saved_the_next_one_reads_bit_for_bit(make: MakeSaved) -> None:
    cache = evaluated()
    assert make().save(numbers(0, 100), 96, cache.slot(1))
    assert np.array_equal(read(make(), numbers(0, 200)), first_of(cache, 100))


def test_the_common_leading_part_of_another_prompt_is_read(saved: SavedPrefixes) -> None:
    cache = evaluated()
    saved.save(numbers(0, 300), 0, cache.slot(1))
    assert np.array_equal(read(saved, [*numbers(0, 77), 999]), first_of(cache, 77))


def test_more_heads_than_one_system_call_takes_are_read_and_written(root: Path) -> None:
    info = variant_info(num_layers=70, num_kv_heads=8, head_dim=2, context_length=64)
    cache, other = KVCache(info, 64, 2), KVCache(info, 64, 2)
    cache.slot(1)[...] = np.random.default_rng(1).random(cache.slot(1).shape)
    saved = SavedPrefixes(root, KEY, MIB, (70, 2, 8, 2), "float32")
    assert saved.save(numbers(0, 64), 0, cache.slot(1))
    for prompt in (numbers(0, 65), numbers(0, 40)):
        found = saved.longest(prompt, exact=False, tile=TILE)
        assert found is not None
        assert saved.read(found, other.slot(0))
        count = found.num_tokens
        assert np.array_equal(other.slot(0)[..., :count, :], cache.slot(1)[..., :count, :])


@pytest.mark.parametrize("dtype", ["int8", "float16"])
def test_quantized_and_half_values_are_kept_as_they_are(make: MakeSaved, dtype: str) -> None:
    cache, other = evaluated(dtype=dtype), KVCache(INFO, NUM_CTX, 3, dtype)
    assert make(dtype=dtype).save(numbers(0, 100), 0, cache.slot(1))
    found = make(dtype=dtype).longest(numbers(0, 200), exact=False, tile=TILE)
    assert found is not None
    assert make(dtype=dtype).read(found, other.slot(0))
    assert np.array_equal(other.slot(0)[..., :100, :], first_of(cache, 100))


def test_the_longest_of_several_is_found(saved: SavedPrefixes) -> None:
    cache = evaluated()
    for shared in (70, 150, 110):
        assert saved.save([*numbers(0, shared), *numbers(1000 * shared, 1000 * shared + 100)], 0, cache.slot(1))
    assert found_tokens(saved, numbers(0, 400)) == 150


def test_one_token_always_remains_to_be_evaluated(saved: SavedPrefixes) -> None:
    saved.save(numbers(0, 100), 96, evaluated().slot(1))
    assert found_tokens(saved, numbers(0, 100)) == 99
    assert found_tokens(saved, numbers(0, 101)) == 100


def test_a_reproducible_prompt_gets_whole_exact_tiles_that_leave_two_tokens(saved: SavedPrefixes) -> None:
    saved.save(numbers(0, 200), 128, evaluated().slot(1))
    assert found_tokens(saved, numbers(0, 300), exact=True) == 128
    assert found_tokens(saved, numbers(0, 130), exact=True) == 128
    assert found_tokens(saved, numbers(0, 129), exact=True) == 96
    assert found_tokens(saved, [*numbers(0, 100), 999, 999], exact=True) == 96
    assert found_tokens(saved, numbers(0, 300)) == 200


def test_how_many_are_exact_survives(make: MakeSaved) -> None:
    make().save(numbers(0, 200), 64, evaluated().slot(1))
    assert found_tokens(make(), numbers(0, 300), exact=True) == 64


@pytest.mark.parametrize("prompt", [[], [0], numbers(500, 600)])
def test_prompts_that_share_nothing_find_nothing(saved: SavedPrefixes, prompt: list[int]) -> None:
    saved.save(numbers(0, 200), 192, evaluated().slot(1))
    assert found_tokens(saved, prompt) == 0
    assert found_tokens(saved, prompt, exact=True) == 0


def test_what_another_runner_of_the_model_saves_is_found_at_once(make: MakeSaved) -> None:
    one, other = make(), make()
    assert found_tokens(other, numbers(0, 200)) == 0
    one.save(numbers(0, 100), 0, evaluated().slot(1))
    assert found_tokens(other, numbers(0, 200)) == 100


def test_a_slot_of_another_shape_is_refused_by_name(saved: SavedPrefixes) -> None:
    saved.save(numbers(0, 100), 0, evaluated().slot(1))
    found = saved.longest(numbers(0, 200), exact=False, tile=TILE)
    assert found is not None
    for slot in (evaluated(dtype="int8").slot(1), evaluated().slot(1)[:2], evaluated().slot(1)[..., :50, :]):
        with pytest.raises(ValueError, match="cannot hold 100 tokens"):
            saved.read(found, slot)


# whose it is


def test_files_and_directories_are_for_the_owner_alone(root: Path, saved: SavedPrefixes) -> None:
    root.parent.mkdir()
    before = os.umask(0)
    try:
        assert saved.save(numbers(0, 100), 0, evaluated().slot(1))
    finally:
        os.umask(before)
    made = [root, *root.rglob("*")]
    assert [stat.S_IMODE(path.stat().st_mode) for path in made] == [0o700, 0o700, 0o700, 0o600]


def key(
    *, form: KVForm | None = None, tile: int = TILE, device: str = "CPU, 2 threads", num_ctx: int = 64, **fields: Any
) -> str:
    info = variant_info(**fields)
    return prefix_key(info, form or float_form(info), tile=tile, device=device, num_ctx=num_ctx)


def test_whatever_changes_the_numbers_changes_the_key() -> None:
    scales = [KVForm("q8_0", "model.onnx", "int8", {"scale": np.full(3, value, np.float32)}) for value in (1, 2)]
    keys = [
        key(),
        key(name="other"),
        key(exporter="1"),
        key(files={"model.onnx": 5}),
        key(ropes=[RopeInfo([0.5])]),
        key(num_heads=2),
        key(form=KVForm("f32", "other.onnx", "float32")),
        key(form=KVForm("f16", "model.onnx", "float16")),
        key(form=scales[0]),
        key(form=scales[1]),
        key(tile=8),
        key(device="CPU, 4 threads"),
    ]
    assert len(set(keys)) == len(keys)
    assert key() == key()


def test_windows_share_a_key_unless_their_ropes_differ() -> None:
    ropes = [RopeInfo([0.5], long_inv_freq=[0.25], short_context=100)]
    assert key(ropes=ropes, num_ctx=50) == key(ropes=ropes, num_ctx=100) != key(ropes=ropes, num_ctx=101)
    assert key(ropes=ropes, num_ctx=101) == key(ropes=ropes, num_ctx=5000)
    assert key(num_ctx=50) == key(num_ctx=5000)


def test_the_key_begins_with_the_checkpoint_so_that_its_prompts_can_go_with_it() -> None:
    assert key(source="sha256:" + "ab" * 32).startswith("ab" * 32 + "/")


@pytest.mark.parametrize("source", ["", "sha256:", "sha256:../../etc", "md5:" + "0" * 64, "0" * 64])
def test_a_variant_without_a_digest_is_refused_by_name(source: str) -> None:
    with pytest.raises(ValueError, match="source"):
        key(source=source)


def test_prompts_of_another_key_are_not_found(make: MakeSaved) -> None:
    make().save(numbers(0, 100), 0, evaluated().slot(1))
    assert found_tokens(make(key=KEY[:-1] + "2"), numbers(0, 100)) == 0


# what is worth a file


def test_short_prompts_are_not_saved(root: Path, make: MakeSaved) -> None:
    assert not make().save(numbers(0, 63), 32, evaluated().slot(1))
    assert not make(min_tokens=200).save(numbers(0, 199), 32, evaluated().slot(1))
    assert files(root) == []


def only_file(root: Path) -> Path:
    (path,) = files(root)
    return path


def test_a_prompt_whose_longer_form_is_saved_marks_it_as_used(root: Path, saved: SavedPrefixes) -> None:
    cache = evaluated()
    saved.save(numbers(0, 200), 192, cache.slot(1))
    path = only_file(root)
    os.utime(path, (1, 1))
    for length in (200, 100):
        assert saved.save(numbers(0, length), 96, evaluated(1).slot(1))
    assert only_file(root) == path
    assert path.stat().st_mtime > 1
    assert np.array_equal(read(saved, numbers(0, 300)), first_of(cache, 200))


def test_a_prompt_that_goes_on_takes_the_place_of_the_shorter_one(root: Path, saved: SavedPrefixes) -> None:
    saved.save(numbers(0, 100), 96, evaluated().slot(1))
    assert saved.save(numbers(0, 200), 192, evaluated().slot(1))
    assert only_file(root).stat().st_size > 200 * TOKEN_BYTES
    assert found_tokens(saved, numbers(0, 300)) == 200


def test_of_nearly_equal_prompts_the_longer_stays(root: Path, saved: SavedPrefixes) -> None:
    cache = evaluated()
    saved.save([*numbers(0, 180), *numbers(1000, 1020)], 192, cache.slot(1))
    assert saved.save([*numbers(0, 180), *numbers(2000, 2010)], 160, cache.slot(1))
    assert found_tokens(saved, [*numbers(0, 180), *numbers(1000, 1020), 1]) == 200
    assert saved.save([*numbers(0, 180), *numbers(3000, 3070)], 224, cache.slot(1))
    assert found_tokens(saved, [*numbers(0, 180), *numbers(3000, 3070), 1]) == 250
    assert only_file(root)


def test_of_nearly_equal_prompts_of_one_length_the_newer_stays(root: Path, saved: SavedPrefixes) -> None:
    for first in (1000, 2000):
        assert saved.save([*numbers(0, 180), *numbers(first, first + 20)], 192, evaluated().slot(1))
    assert only_file(root)
    assert found_tokens(saved, [*numbers(0, 180), *numbers(2000, 2030)]) == 200


def test_a_longer_prompt_does_not_replace_one_with_more_exact_tokens(root: Path, saved: SavedPrefixes) -> None:
    saved.save(numbers(0, 200), 192, evaluated().slot(1))
    saved.save(numbers(0, 240), 32, evaluated().slot(1))
    assert len(files(root)) == 2
    assert found_tokens(saved, numbers(0, 300), exact=True) == 192
    assert found_tokens(saved, numbers(0, 300)) == 240


# bounds


def different(index: int) -> list[int]:
    """100 tokens that no other index has."""
    return numbers(1000 * index, 1000 * index + 100)


def file_bytes(root: Path, make: MakeSaved) -> int:
    """Of 100 tokens."""
    other = root.parent / "measured"
    make(root=other).save(numbers(0, 100), 0, evaluated().slot(1))
    num_bytes = size(other)
    shutil.rmtree(other)
    return num_bytes


def test_the_least_recently_used_of_all_models_go_first(root: Path, make: MakeSaved) -> None:
    bound = 3 * file_bytes(root, make)
    one, other = make(max_bytes=bound), make(key="a/b", max_bytes=bound)
    cache = evaluated()
    for index, runner in enumerate((one, other, one)):
        assert runner.save(different(index), 0, cache.slot(1))
        for path in files(root):
            os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns - 10**9))  # a second passes
    assert read(one, [*different(0), 1]).shape[3] == 100  # used again
    assert other.save(different(3), 0, cache.slot(1))
    assert size(root) <= bound
    assert found_tokens(one, [*different(0), 1]) == 100
    assert found_tokens(other, [*different(1), 1]) == 0
    assert found_tokens(one, [*different(2), 1]) == 100
    assert found_tokens(other, [*different(3), 1]) == 100


def test_the_bound_holds_whatever_is_saved(root: Path, make: MakeSaved) -> None:
    bound = 60_000
    runners = [make(key=f"{index}/x", max_bytes=bound) for index in range(3)]
    random, cache = np.random.default_rng(5), evaluated()
    for _ in range(60):
        start, length = random.integers(0, 40, 1)[0] * 1000, int(random.integers(64, 300))
        runners[random.integers(3)].save(numbers(start, start + length), 32, cache.slot(1))
        assert size(root) <= bound
    assert size(root) > bound / 2


def test_of_several_prompts_saved_at_once_the_first_stay_where_room_is_short(root: Path, make: MakeSaved) -> None:
    num_bytes, cache = file_bytes(root, make), evaluated()
    saved = make(max_bytes=2 * num_bytes)
    assert saved.save(different(9), 0, cache.slot(1))
    assert saved.save_all([(different(index), 0, cache.slot(1)) for index in range(4)]) == 2
    assert [found_tokens(saved, [*different(index), 1]) for index in (0, 1, 2, 3, 9)] == [100, 100, 0, 0, 0]
    make(max_bytes=num_bytes)
    assert [found_tokens(saved, [*different(index), 1]) for index in (0, 1)] == [100, 0]


def test_what_others_write_at_the_moment_counts_and_stays(root: Path, make: MakeSaved) -> None:
    saved = make(max_bytes=2 * file_bytes(root, make))
    unfinished = root / "other" / "key" / ".tmp-1-ab"
    unfinished.parent.mkdir(parents=True)
    unfinished.write_bytes(bytes(file_bytes(root, make)))
    assert saved.save(different(0), 0, evaluated().slot(1))
    assert saved.save(different(1), 0, evaluated().slot(1))
    assert [found_tokens(saved, [*different(index), 1]) for index in (0, 1)] == [0, 100]
    assert unfinished.exists()


def test_a_prompt_larger_than_the_bound_is_not_saved_and_nothing_goes_for_it(root: Path, make: MakeSaved) -> None:
    saved = make(max_bytes=file_bytes(root, make))
    assert saved.save(different(0), 0, evaluated().slot(1))
    assert not saved.save(numbers(5000, 5300), 0, evaluated().slot(1))
    assert found_tokens(saved, [*different(0), 1]) == 100


def test_a_smaller_bound_takes_effect_when_a_model_is_loaded(root: Path, make: MakeSaved) -> None:
    for index in range(3):
        make().save(different(index), 0, evaluated().slot(1))
    make(max_bytes=size(root) // 2)
    assert len(files(root)) == 1


def test_a_save_leaves_room_on_the_disk(root: Path, make: MakeSaved, caplog: pytest.LogCaptureFixture) -> None:
    saved = make(min_free_bytes=1 << 60)
    assert not saved.save(different(0), 0, evaluated().slot(1))
    assert "nearly full" in caplog.text
    assert files(root) == []


def test_a_save_that_takes_too_long_is_dropped(
    root: Path, saved: SavedPrefixes, caplog: pytest.LogCaptureFixture
) -> None:
    assert not saved.save(different(0), 0, evaluated().slot(1), timeout_s=-1)
    assert "longer than" in caplog.text
    assert files(root) == []
    assert saved.save(different(0), 0, evaluated().slot(1))


# faults


@pytest.fixture
def whole(root: Path, saved: SavedPrefixes) -> Path:
    """The file of one saved prompt, numbers(0, 100)."""
    saved.save(numbers(0, 100), 96, evaluated().slot(1))
    return only_file(root)


def test_a_file_cut_anywhere_is_ignored_and_removed(whole: Path, make: MakeSaved) -> None:
    data = whole.read_bytes()
    lengths = [*range(0, 130, 7), 500, 517, 4095, 4096, 4097, len(data) // 2, len(data) - 1]
    for length in lengths:
        whole.write_bytes(data[:length])
        assert found_tokens(make(), numbers(0, 200)) == 0, length
        assert not whole.exists(), length


def test_a_file_that_grew_is_ignored_and_removed(whole: Path, make: MakeSaved) -> None:
    with whole.open("ab") as file:
        file.write(b"\0")
    assert found_tokens(make(), numbers(0, 200)) == 0
    assert not whole.exists()


def test_any_bit_flipped_in_the_header_is_noticed(whole: Path, make: MakeSaved) -> None:
    data = whole.read_bytes()
    header_bytes = 84 + 4 * 100 + 4
    for bit in range(0, 8 * header_bytes, 5):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        whole.write_bytes(changed)
        assert found_tokens(make(), numbers(0, 200)) == 0, bit
        assert not whole.exists(), bit


def test_another_models_file_in_the_folder_is_ignored_and_removed(whole: Path, make: MakeSaved) -> None:
    other = whole.parent.parent / ("2" * 64)
    other.mkdir()
    shutil.move(whole, other / whole.name)
    assert found_tokens(make(key=f"{'0' * 64}/{'2' * 64}"), numbers(0, 200)) == 0
    assert files(other) == []


@pytest.mark.parametrize("content", [b"", b"notes", b"HearthKV", os.urandom(10_000)])
def test_a_foreign_file_is_ignored_and_removed(whole: Path, make: MakeSaved, content: bytes) -> None:
    foreign = whole.with_name("notes.txt")
    foreign.write_bytes(content)
    assert found_tokens(make(), numbers(0, 200)) == 100
    assert files(whole.parent) == [whole]


def test_links_pipes_and_directories_in_the_folder_are_left_alone(whole: Path, make: MakeSaved, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(whole.read_bytes())
    whole.with_name("link.kv").symlink_to(outside)
    whole.with_name("directory.kv").mkdir()
    os.mkfifo(whole.with_name("pipe.kv"))
    assert found_tokens(make(), numbers(0, 200)) == 100
    assert outside.exists()


def test_files_that_dead_writers_left_are_removed_and_live_ones_are_not(whole: Path, make: MakeSaved) -> None:
    mine, dead, alive = (whole.with_name(f".tmp-{pid}-ab") for pid in (os.getpid(), 999999999, 1))
    for path in (mine, dead, alive):
        path.write_bytes(b"x")
    make()
    assert files(whole.parent) == sorted([whole, alive])


def test_a_file_that_vanished_is_not_read(whole: Path, saved: SavedPrefixes) -> None:
    found = saved.longest(numbers(0, 200), exact=False, tile=TILE)
    assert found is not None
    whole.unlink()
    assert not saved.read(found, evaluated().slot(1))
    assert found_tokens(saved, numbers(0, 200)) == 0


def test_a_file_cut_after_it_was_found_is_not_read_and_removed(whole: Path, saved: SavedPrefixes) -> None:
    found = saved.longest(numbers(0, 200), exact=False, tile=TILE)
    assert found is not None
    os.truncate(whole, 6000)
    assert not saved.read(found, evaluated().slot(1))
    assert not whole.exists()
    assert found_tokens(saved, numbers(0, 200)) == 0


def test_a_file_that_another_one_replaced_is_not_read_for_it(
    whole: Path, saved: SavedPrefixes, make: MakeSaved
) -> None:
    found = saved.longest(numbers(0, 200), exact=True, tile=TILE)
    assert found is not None
    other = make(root=whole.parents[2].with_name("elsewhere"))
    other.save(numbers(0, 100), 0, evaluated().slot(1))  # the same tokens, none of them exact
    shutil.copy(only_file(whole.parents[2].with_name("elsewhere")), whole)
    assert not saved.read(found, evaluated().slot(1))


def test_a_model_deleted_meanwhile_costs_only_the_file(root: Path, whole: Path, saved: SavedPrefixes) -> None:
    shutil.rmtree(root)
    assert found_tokens(saved, numbers(0, 200)) == 0
    assert saved.save(different(1), 0, evaluated().slot(1))
    assert found_tokens(saved, [*different(1), 1]) == 100


def test_a_root_that_is_a_file_means_nothing_is_saved(
    root: Path, make: MakeSaved, caplog: pytest.LogCaptureFixture
) -> None:
    root.parent.mkdir()
    root.write_bytes(b"")
    saved = make()
    assert not saved.save(different(0), 0, evaluated().slot(1))
    assert found_tokens(saved, different(0)) == 0
    assert "is not saved" in caplog.text


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A directory with a MiB of room."""
    directory, mount = tmp_path / "disk", shutil.which("mount")
    directory.mkdir()
    command = ("-t", "tmpfs", "-o", f"size={MIB}", "none", str(directory))
    if mount is None or os.geteuid() or subprocess.run([mount, *command]).returncode:
        pytest.skip("mounting a tmpfs needs root")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", directory], check=True)


def test_a_disk_that_fills_up_during_a_save_gets_its_room_back(
    disk: Path, make: MakeSaved, caplog: pytest.LogCaptureFixture
) -> None:
    saved = make(root=disk / "prefixes", max_bytes=100 * MIB, min_free_bytes=-100 * MIB)
    assert saved.save(different(0), 0, evaluated().slot(1))
    room = free_bytes(disk) - 50_000
    (disk / "ballast").write_bytes(bytes(room))
    assert not saved.save(numbers(5000, 5400), 0, evaluated().slot(1))
    assert "No space left" in caplog.text
    assert len(files(disk / "prefixes")) == 1
    assert read(saved, [*different(0), 1]).shape[3] == 100
    (disk / "ballast").unlink()
    assert saved.save(numbers(5000, 5400), 0, evaluated().slot(1))


def test_on_a_disk_that_became_read_only_what_is_there_is_read_and_nothing_saved(
    disk: Path, make: MakeSaved, caplog: pytest.LogCaptureFixture
) -> None:
    make(root=disk, min_free_bytes=0).save(different(0), 0, evaluated().slot(1))
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    saved = make(root=disk, max_bytes=100 * MIB, min_free_bytes=0)
    assert read(saved, [*different(0), 1]).shape[3] == 100
    assert not saved.save(different(1), 0, evaluated().slot(1))
    assert "Read-only file system" in caplog.text


def test_runners_that_save_and_read_at_the_same_time_keep_the_bound_and_read_only_whole_prompts(
    root: Path, make: MakeSaved, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    bound = 4 * file_bytes(root, make)
    errors: list[str] = []

    def work(number: int) -> None:
        saved = make(key=f"{number % 2}/x", max_bytes=bound)
        cache, target = KVCache(INFO, NUM_CTX), KVCache(INFO, NUM_CTX)
        for turn in range(25):
            index = (turn * 7 + number) % 6
            cache.slot(0)[...] = index
            saved.save(different(index), 64, cache.slot(0))
            wanted = (index + turn) % 6
            found = saved.longest([*different(wanted), 1], exact=False, tile=TILE)
            if found and saved.read(found, target.slot(0)) and not (target.slot(0)[..., :100, :] == wanted).all():
                errors.append(f"{number} read another prompt than {wanted}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    make(max_bytes=bound)
    assert size(root) <= bound
    assert not [path for path in files(root) if path.name.startswith(".tmp-")]


WRITER = """
import sys, numpy as np
from pathlib import Path
from hearthd.engine.prefixes import SavedPrefixes
slot = np.zeros((30, 2, 3, 1500, 64), np.float32)
saved = SavedPrefixes(Path(sys.argv[1]), "a/b", 1 << 30, (30, 2, 3, 64), "float32")
print("ready", flush=True)
for start in range(0, 1 << 30, 2000):
    assert saved.save(list(range(start, start + 1500)), 0, slot)
"""


def test_a_writer_killed_during_a_save_leaves_only_whole_files(root: Path) -> None:
    program = [sys.executable, "-c", WRITER, str(root)]
    with subprocess.Popen(program, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        while not list(root.rglob(".tmp-*")):
            assert writer.poll() is None
        writer.kill()
    before = files(root)
    SavedPrefixes(root, "a/b", 1 << 30, (30, 2, 3, 64), "float32")
    assert files(root) == [path for path in before if not path.name.startswith(".tmp-")]
