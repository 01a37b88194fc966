from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from hearthd.errors import ExportFailed
from hearthd.registry.exporter import ExportProgress, at, convert, inspect, quantize
from hearthd.store.variant import read_variant
from tests.tiny import write_tiny_gguf

MakeConverter = Callable[[str], str]
DIGEST = "sha256:" + "ab" * 32


async def collect(root: Path, program: str) -> list[ExportProgress]:
    return [step async for step in convert(at(root / "source.gguf"), DIGEST, root, python=program)]


def run(root: Path, program: str) -> list[ExportProgress]:
    return asyncio.run(collect(root, program))


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen within 30 s")


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_real_converter_makes_a_variant(tiny_gguf: Path, tmp_path: Path) -> None:
    async def steps() -> list[ExportProgress]:
        return [step async for step in convert(at(tiny_gguf), DIGEST, tmp_path / "variants")]

    found = asyncio.run(steps())
    assert [step.stage for step in found[:-1] if step.total and step.done == step.total]
    info = read_variant(tmp_path / "variants" / found[-1].variant)
    assert info is not None
    assert info.source == DIGEST
    assert [path.name for path in (tmp_path / "variants").iterdir() if path.name.startswith(".")] == []


def test_real_converter_describes_a_checkpoint(tiny_gguf: Path) -> None:
    brief, full = (asyncio.run(inspect(tiny_gguf, verbose)) for verbose in (False, True))
    assert brief.architecture == full.architecture == "llama"
    assert brief.parameter_count > 0
    assert {tensor.name for tensor in brief.tensors} >= {"token_embd.weight"}
    assert isinstance(full.metadata["tokenizer.ggml.tokens"], list)


def test_real_converter_refuses_what_is_no_checkpoint_in_one_sentence(tmp_path: Path) -> None:
    source = tmp_path / "source.gguf"
    source.write_bytes(b"not a model")
    with pytest.raises(ExportFailed, match=r"source\.gguf") as caught:
        asyncio.run(inspect(source))
    assert "Traceback" not in str(caught.value)
    with pytest.raises(ExportFailed, match=r"source\.gguf"):
        asyncio.run(_drain(source, tmp_path / "variants"))
    assert not any((tmp_path / "variants").glob("*"))


async def _drain(source: Path, root: Path) -> None:
    async for _ in convert(at(source), DIGEST, root):
        pass


def test_progress_is_relayed_and_the_variant_named_last(tmp_path: Path, make_converter: MakeConverter) -> None:
    program = make_converter("""
def step(stage, done, total):
    say(stage=stage, done=done, total=total)
    while not Path(option("--out"), stage).exists(): time.sleep(0.01)
step("reading", 0, 0); step("quantizing", 3, 4)
publish(); say(result={"variant": "cpu-int4"})
""")

    async def follow() -> list[ExportProgress]:
        steps = []
        async for step in convert(at(tmp_path / "s"), DIGEST, tmp_path, python=program):
            steps.append(step)
            (tmp_path / step.stage).touch()
        return steps

    assert asyncio.run(follow()) == [
        ExportProgress("reading"),
        ExportProgress("quantizing", 3, 4),
        ExportProgress("done", variant="cpu-int4"),
    ]


def test_converter_s_own_sentence_is_the_error(tmp_path: Path, make_converter: MakeConverter) -> None:
    program = make_converter('say(stage="reading"); say(error="x.gguf: magic is 0"); sys.exit(1)')
    with pytest.raises(ExportFailed) as caught:
        run(tmp_path, program)
    assert str(caught.value) == "x.gguf: magic is 0"


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "was killed, most likely for lack of memory"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "signal 11"),
        ("raise RuntimeError('boom')", "status 1 and no result"),
        ("say(stage='reading')", "status 0 and no result"),
        ("print('hello')", "printed what it should not: b'hello"),
        ("say(result={'variant': 'absent'})", "no valid variant 'absent'"),
    ],
)
def test_death_without_a_last_word_is_told(
    tmp_path: Path, make_converter: MakeConverter, code: str, sentence: str
) -> None:
    with pytest.raises(ExportFailed, match=sentence):
        run(tmp_path, make_converter(code))


def test_last_words_go_to_the_log_and_not_to_the_client(
    tmp_path: Path, make_converter: MakeConverter, caplog: pytest.LogCaptureFixture
) -> None:
    program = make_converter("sys.stderr.write('x' * 100_000 + 'the end'); sys.exit(3)")
    with caplog.at_level(logging.WARNING), pytest.raises(ExportFailed) as caught:
        run(tmp_path, program)
    assert "the end" in caplog.text
    assert len(caplog.text) < 10_000
    assert "the end" not in str(caught.value)


def test_absent_program_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ExportFailed, match="cannot be started: /nowhere/python"):
        run(tmp_path, "/nowhere/python")


def test_callers_at_the_same_time_share_one_conversion(tmp_path: Path, make_converter: MakeConverter) -> None:
    program = make_converter("""
Path(option("--out"), "started").open("a").write("x")
say(stage="reading"); time.sleep(0.3)
publish(); say(result={"variant": "cpu-int4"})
""")

    async def three() -> list[list[ExportProgress]]:
        return await asyncio.gather(*(collect(tmp_path, program) for _ in range(3)))

    assert all(steps[-1].variant == "cpu-int4" for steps in asyncio.run(three()))
    assert (tmp_path / "started").read_text() == "x"


STUBBORN = """
unfinished()
child = os.fork()
if child == 0:
    time.sleep(600)
Path(option("--out"), "pids").write_text(f"{os.getpid()} {child}")
say(stage="reading")
time.sleep(600)
"""


@pytest.mark.parametrize("code", [STUBBORN, "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + STUBBORN])
def test_leaving_ends_the_whole_process_group_and_what_it_had_begun(
    tmp_path: Path, make_converter: MakeConverter, code: str
) -> None:
    program = make_converter(code)

    async def leave() -> None:
        async with aclosing(convert(at(tmp_path / "s"), DIGEST, tmp_path, python=program)) as steps:
            await anext(steps)

    asyncio.run(leave())
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    asyncio.run(until(lambda: not any(map(is_running, pids))))
    assert not list(tmp_path.glob(".tmp-*"))


def test_one_caller_s_cancellation_leaves_the_others_their_conversion(
    tmp_path: Path, make_converter: MakeConverter
) -> None:
    program = make_converter("""
say(stage="reading")
while not Path(option("--out"), "go").exists(): time.sleep(0.01)
publish(); say(result={"variant": "cpu-int4"})
""")

    async def race() -> list[ExportProgress]:
        leaver, stayer = (asyncio.create_task(collect(tmp_path, program)) for _ in range(2))
        await asyncio.sleep(0.3)
        leaver.cancel()
        await asyncio.wait([leaver])
        assert leaver.cancelled()
        (tmp_path / "go").touch()
        return await stayer

    assert asyncio.run(race())[-1].variant == "cpu-int4"


def test_next_call_after_a_failure_starts_anew(tmp_path: Path, make_converter: MakeConverter) -> None:
    program = make_converter("""
marker = Path(option("--out"), "failed-before")
if not marker.exists():
    marker.touch(); say(error="first"); sys.exit(1)
publish(); say(result={"variant": "cpu-int4"})
""")

    async def twice() -> list[ExportProgress]:
        with pytest.raises(ExportFailed, match="first"):
            await collect(tmp_path, program)
        return await collect(tmp_path, program)

    assert asyncio.run(twice())[-1].variant == "cpu-int4"


def test_cancelled_inspection_leaves_no_process(tmp_path: Path, make_converter: MakeConverter) -> None:
    program = make_converter(f"Path({str(tmp_path)!r}, 'pid').write_text(str(os.getpid())); time.sleep(600)")

    async def cancel() -> None:
        task = asyncio.create_task(inspect(tmp_path / "s", python=program))
        await until(lambda: (tmp_path / "pid").exists() and bool((tmp_path / "pid").read_text()))
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(cancel())
    assert not is_running(int((tmp_path / "pid").read_text()))


def test_endless_output_of_an_inspection_is_cut_off(tmp_path: Path, make_converter: MakeConverter) -> None:
    program = make_converter("while True: sys.stdout.write('x' * 65536)")
    with pytest.raises(ExportFailed, match="more than a description"):
        asyncio.run(inspect(tmp_path / "s", python=program))


# -- quantize ----------------------------------------------------------------------------------------------------------


async def quantized(source: Path, to: str, out: Path, program: str = sys.executable) -> list[ExportProgress]:
    async with aclosing(quantize(source, to, out, python=program)) as steps:
        return [step async for step in steps]


@pytest.fixture
def float_gguf(tmp_path: Path) -> Path:
    return write_tiny_gguf(tmp_path / "f16.gguf", matrix_type="F16", embedding_type="F16")


def test_real_converter_quantizes_a_checkpoint_of_floats(float_gguf: Path, tmp_path: Path) -> None:
    out = tmp_path / "q8.gguf"
    found = asyncio.run(quantized(float_gguf, "q8_0", out))
    assert [step.stage for step in found][:2] == ["reading", "quantizing"]
    assert found[-1] == ExportProgress("done", out.stat().st_size, out.stat().st_size)
    assert all(step.done <= step.total for step in found)
    assert asyncio.run(inspect(out)).file_type == "Q8_0"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f16.gguf", "q8.gguf"]


@pytest.mark.parametrize(
    ("source", "to", "sentence"),
    [
        ("tiny", "Q4_K_M", r"^quantization is only supported for F16, BF16 and F32 models$"),
        ("floats", "Q9", r"^unsupported quantization type Q9 - supported types are F32, "),
        ("floats", "--help", r"^unsupported quantization type --help - supported types are F32, "),
    ],
)
def test_real_converter_s_refusals_are_the_errors(
    tiny_gguf: Path, float_gguf: Path, tmp_path: Path, source: str, to: str, sentence: str
) -> None:
    with pytest.raises(ExportFailed, match=sentence):
        asyncio.run(quantized({"tiny": tiny_gguf, "floats": float_gguf}[source], to, tmp_path / "out.gguf"))
    assert list(tmp_path.iterdir()) == [float_gguf]


def test_failed_quantizing_leaves_the_file_that_was_there(tiny_gguf: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    out.write_bytes(b"old")
    with pytest.raises(ExportFailed):
        asyncio.run(quantized(tiny_gguf, "Q8_0", out))
    assert out.read_bytes() == b"old"


@pytest.mark.parametrize("words", ["", "signal.signal(signal.SIGTERM, signal.SIG_IGN)"])
def test_leaving_a_quantizing_ends_it_and_removes_what_it_had_begun(
    tmp_path: Path, make_converter: MakeConverter, words: str
) -> None:
    program = make_converter(f"""
{words}
out = Path(option("--out"))
temp = out.with_name(f".tmp-{{os.getpid()}}-x")
temp.touch(); out.touch()
Path({str(tmp_path)!r}, "pid").write_text(str(os.getpid()))
say(stage="quantizing", done=1, total=9)
time.sleep(600)
""")
    directory = tmp_path / "blobs"
    directory.mkdir()
    (directory / ".tmp-1-y").touch()

    async def leave() -> None:
        async with aclosing(quantize(tmp_path / "s", "Q8_0", directory / "out", python=program)) as steps:
            assert await anext(steps) == ExportProgress("quantizing", 1, 9)

    asyncio.run(leave())
    assert not is_running(int((tmp_path / "pid").read_text()))
    assert [path.name for path in directory.iterdir()] == [".tmp-1-y"]


def test_cancelled_quantizing_leaves_no_process_and_no_file(tmp_path: Path, make_converter: MakeConverter) -> None:
    program = make_converter(f"""
Path(option("--out")).with_name(f".tmp-{{os.getpid()}}-x").touch()
Path({str(tmp_path)!r}, "pid").write_text(str(os.getpid())); time.sleep(600)
""")

    async def cancel() -> None:
        task = asyncio.create_task(quantized(tmp_path / "s", "Q8_0", tmp_path / "out", program))
        await until(lambda: (tmp_path / "pid").exists() and bool((tmp_path / "pid").read_text()))
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    asyncio.run(cancel())
    assert not is_running(int((tmp_path / "pid").read_text()))
    assert not list(tmp_path.glob(".tmp-*"))


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "was killed, most likely for lack of memory"),
        ("say(stage='quantizing', done=9, total=9)", "status 0 and no result"),
        ("say(error='s: no')", "^s: no$"),
        ("print('hello')", "printed what it should not: b'hello"),
    ],
)
def test_death_of_a_quantizing_is_told_and_nothing_stays(
    tmp_path: Path, make_converter: MakeConverter, code: str, sentence: str
) -> None:
    directory = tmp_path / "blobs"
    directory.mkdir()
    unfinished = "Path(option('--out')).with_name(f'.tmp-{os.getpid()}-x').touch()\n"
    with pytest.raises(ExportFailed, match=sentence):
        asyncio.run(quantized(tmp_path / "s", "Q8_0", directory / "out", make_converter(unfinished + code)))
    assert list(directory.iterdir()) == []
