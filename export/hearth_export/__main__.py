"""hearth-export: converts checkpoints to quantized ONNX, and to GGUF files, in a process of its own.

    hearth-export convert SOURCE [--out DIRECTORY] [--variant NAME] [--quantize TYPE] [--goal GOAL] [--dry-run]
    hearth-export quantize SOURCE --to TYPE --out FILE
    hearth-export merge SOURCE --adapter ADAPTER --out FILE
    hearth-export inspect SOURCE [--verbose]
    hearth-export variants

SOURCE is a GGUF file, a directory with config.json and safetensors, or the name of a model in the store.

On a terminal there are progress bars. Elsewhere `convert` prints a JSON object a line: {"stage", "done", "total"}
(bytes), then {"result": {"variant"}} or {"error"}; with `--dry-run` {"plan"}. `quantize` and `merge` likewise, their
result being {"file", "num_bytes"}. `inspect` prints what the checkpoint says of itself, or {"error"}. The exit status
is 0, or 1 after an error, or 128 and the signal's number where SIGTERM, SIGINT or SIGHUP ended it; then, too, nothing
half-made stays.
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

from hearth_export.checkpoint import OPTIMUM
from hearth_export.display import open_display
from hearth_export.errors import ExportError
from hearth_export.precision import Goal
from hearth_export.variants import table

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
    open_display().error(sentence.encode("utf-8", "backslashreplace").decode())
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
        prog="hearth-export",
        description="Converts checkpoints to quantized ONNX, and to GGUF files.",
        epilog="SOURCE is a GGUF file, a directory with config.json and safetensors, or the name of a stored model.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _define_convert(commands.add_parser(
        "convert",
        help="make a variant: what a runner opens",
        description="Makes a variant of a checkpoint: a directory with an ONNX graph, its weights, a tokenizer and a "
        "description, which the daemon opens as it is.",
        epilog=f"variants:\n{table()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ))  # fmt: skip
    quantize = commands.add_parser("quantize", help="make a quantized GGUF file of a checkpoint that holds floats")
    quantize.add_argument("source", metavar="SOURCE")
    quantize.add_argument("--to", required=True, metavar="TYPE", help="file type as llama.cpp calls it, e.g. Q4_K_M")
    quantize.add_argument("--out", type=Path, required=True, metavar="FILE", help="the file to make")
    merge = commands.add_parser("merge", help="make a GGUF file of a checkpoint with a LoRA adapter merged into it")
    merge.add_argument("source", metavar="SOURCE")
    merge.add_argument(
        "--adapter", type=Path, required=True, help="a GGUF file, or a directory with adapter_config.json"
    )
    merge.add_argument("--out", type=Path, required=True, metavar="FILE", help="the file to make")
    inspect = commands.add_parser("inspect", help="print what a checkpoint says of itself")
    inspect.add_argument("source", metavar="SOURCE")
    inspect.add_argument("--verbose", action="store_true", help="print long arrays too")
    variants = commands.add_parser("variants", help="list the variants that there are to be")
    variants.set_defaults(source="")
    return parser


def _define_convert(convert: argparse.ArgumentParser) -> None:
    convert.add_argument("source", metavar="SOURCE", help="a GGUF file, a directory, or a model of the store")
    convert.add_argument(
        "--out",
        type=Path,
        metavar="DIRECTORY",
        help="where to make the variant's directory; for a model the store's own",
    )
    convert.add_argument("--variant", default="", metavar="NAME", help="see below; by default what suits the weights")
    convert.add_argument("--quantize", default="", metavar="TYPE", help="quantize floats first, e.g. to Q4_K_M")
    convert.add_argument("--goal", type=Goal, choices=list(Goal), help="what is optimised for; bytes by default")
    convert.add_argument("--dry-run", action="store_true", help="tell what would be made: files, sizes, memory")
    convert.add_argument("--digest", help="sha256:HEX of the source, recorded; computed by default")
    convert.add_argument(
        "--route",
        choices=(OPTIMUM,),
        default="",
        help="optimum: have torch and Optimum export a directory, as is done anyway where the builder does not know it",
    )
    convert.add_argument("--models", type=Path, metavar="DIRECTORY", help="the model store; HEARTH_MODELS by default")


def _convert(options: argparse.Namespace) -> int:
    from hearth_export.conversion import converted, foreseen
    from hearth_export.located import located

    display = open_display()
    if options.dry_run:
        with located(options.source, options.digest or _UNASKED, options.models) as found:
            display.plan(foreseen(found.path, options.variant, options.quantize, options.goal, options.route))
        return 0
    with located(options.source, options.digest, options.models) as found:
        root = options.out or found.variant_root
        if root is None:
            raise ExportError("--out is missing: the directory that the variant's directory is to be made in")
        with display.progress() as report:
            name = converted(
                found.path, found.digest, root, report,
                variant=options.variant, quantize=options.quantize, goal=options.goal, route=options.route,
            )  # fmt: skip
    display.result({"variant": name}, f"made {root / name}")
    return 0


def _quantize(options: argparse.Namespace) -> int:
    from hearth_export.located import located
    from hearth_export.requantize import requantize

    display = open_display()
    with located(options.source, _UNASKED) as found, display.progress() as report:
        num_bytes = requantize(found.path, options.to, options.out, report)
    return _made(options.out, num_bytes)


def _merge(options: argparse.Namespace) -> int:
    from hearth_export.located import located
    from hearth_export.lora import merge

    display = open_display()
    with located(options.source, _UNASKED) as found, display.progress() as report:
        num_bytes = merge(found.path, options.adapter, options.out, report)
    return _made(options.out, num_bytes)


def _made(out: Path, num_bytes: int) -> int:
    name = os.fsencode(out).decode("utf-8", "backslashreplace")
    open_display().result({"file": name, "num_bytes": num_bytes}, f"made {name}, {num_bytes / (1 << 20):.1f} MiB")
    return 0


def _inspect(options: argparse.Namespace) -> int:
    from hearth_export.checkpoint import open_checkpoint
    from hearth_export.located import located
    from hearth_export.source import describe

    with located(options.source, _UNASKED) as found, open_checkpoint(found.path) as checkpoint:
        sys.stdout.write(msgspec.json.encode(describe(checkpoint, options.verbose)).decode() + "\n")
    return 0


def _variants(options: argparse.Namespace) -> int:
    sys.stdout.write(table() + "\n")
    return 0


_UNASKED = "sha256:" + "0" * 64  # a digest that nobody looks at
_COMMANDS = {"convert": _convert, "quantize": _quantize, "merge": _merge, "inspect": _inspect, "variants": _variants}

if __name__ == "__main__":
    offer_to_oom_killer()
    sys.exit(main())
