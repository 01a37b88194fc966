"""hearth-export: converts checkpoints to quantized ONNX, and GGUF files to quantized ones, in a process of its own.

    hearth-export convert SOURCE --digest sha256:HEX --out DIRECTORY [--goal bytes|fidelity|prefill]
    hearth-export quantize SOURCE --to TYPE --out FILE
    hearth-export inspect SOURCE [--verbose]

`convert` prints a JSON object a line: {"stage", "done", "total"} (bytes), then {"result": {"variant"}} or {"error"};
`quantize` likewise, its result being {"file", "num_bytes"}.
`inspect` prints what the checkpoint says of itself, or {"error"}. The exit status is 0, or 1 after an error, or 128 and
the signal's number where SIGTERM, SIGINT or SIGHUP ended it; then, too, nothing half-made stays.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import msgspec

from hearth_export.errors import ExportError
from hearth_export.precision import Goal
from hearth_export.progress import Reporter, say

OOM_SCORE_ADJ = "600"  # of -1000..1000; a runner has 500


class _Stopped(BaseException):
    """A signal asks for the end."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; the exit status."""
    options = _parser().parse_args(arguments)
    try:
        with _unwinding_on_signals():
            return _COMMANDS[options.command](options)
    except BrokenPipeError:  # whoever asked is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except _Stopped as stop:
        return _fail(f"{options.source}: {stop}", 128 + stop.number)
    except ExportError as error:
        return _fail(str(error))
    except MemoryError:
        return _fail(f"{options.source}: not enough memory to convert this model")
    except OSError as error:
        return _fail(f"{error.filename or options.source}: {error.strerror}")


def offer_to_oom_killer() -> None:
    """A process that the daemon starts goes before it and its models: a conversion can be had again."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE_ADJ)


def _fail(sentence: str, status: int = 1) -> int:
    with contextlib.suppress(BrokenPipeError):
        say({"error": sentence.encode("utf-8", "backslashreplace").decode()})
    return status


@contextlib.contextmanager
def _unwinding_on_signals() -> Iterator[None]:
    """Signals that ask for the end raise, so that every context manager on the way out cleans up."""

    def stop(number: int, frame: FrameType | None) -> None:
        for other in handlers:
            signal.signal(other, signal.SIG_IGN)
        raise _Stopped(number)

    handlers = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hearth-export", description="Converts checkpoints to quantized ONNX, and GGUF files to quantized ones."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    convert = commands.add_parser("convert", help="make a variant of a GGUF file")
    convert.add_argument("source", type=Path)
    convert.add_argument("--digest", required=True, help="sha256:HEX of the source, recorded in the variant")
    convert.add_argument("--out", type=Path, required=True, help="directory that the variant's directory is made in")
    convert.add_argument("--goal", type=Goal, choices=list(Goal), default=Goal.BYTES)
    quantize = commands.add_parser("quantize", help="make a quantized GGUF file of one that holds floats")
    quantize.add_argument("source", type=Path)
    quantize.add_argument("--to", required=True, metavar="TYPE", help="file type as llama.cpp calls it, e.g. Q4_K_M")
    quantize.add_argument("--out", type=Path, required=True, help="the file to make")
    inspect = commands.add_parser("inspect", help="print what a checkpoint says of itself")
    inspect.add_argument("source", type=Path)
    inspect.add_argument("--verbose", action="store_true", help="print long arrays too")
    return parser


def _convert(options: argparse.Namespace) -> int:
    from hearth_export.pipeline import convert

    name = convert(options.source, options.digest, options.out, options.goal, Reporter())
    say({"result": {"variant": name}})
    return 0


def _quantize(options: argparse.Namespace) -> int:
    from hearth_export.requantize import requantize

    num_bytes = requantize(options.source, options.to, options.out, Reporter())
    say({"result": {"file": os.fsencode(options.out).decode("utf-8", "backslashreplace"), "num_bytes": num_bytes}})
    return 0


def _inspect(options: argparse.Namespace) -> int:
    from hearth_export.readers.gguf import open_gguf
    from hearth_export.source import describe

    with open_gguf(options.source) as gguf:
        sys.stdout.write(msgspec.json.encode(describe(gguf, options.verbose)).decode() + "\n")
    return 0


_COMMANDS = {"convert": _convert, "quantize": _quantize, "inspect": _inspect}

if __name__ == "__main__":
    offer_to_oom_killer()
    sys.exit(main())
