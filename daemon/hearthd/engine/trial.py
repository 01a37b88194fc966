"""Compiling a schema where it may fail: in a process of its own.

The compiler bounds most of its work by itself. But it recurses along references until the stack ends, and patterns that
must all hold, or their complements, can take it any time and memory: `python -m hearthd.engine.trial` takes a schema
on standard input, has little of both, and answers with a complaint on standard output or with none.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
from functools import lru_cache
from typing import Any

import msgspec

from hearthd.engine.schema import GrammarError, compiled

CPU_S = 2
DATA_BYTES = 128 << 20
STACK_BYTES = 4 << 20
WAIT_S = 20  # a busy device gives a process little of its time
PLAIN_BYTES = 16 << 10  # what recursion along so short a text takes, a stack has
TRIED = frozenset(["allOf", "multipleOf", "patternProperties"])
ALONE = frozenset(["$ref", "$defs", "definitions", "$schema", "$id", "title", "description", "default"])


def tried(schema: str) -> None:
    """Makes sure that compiling `schema` takes neither long nor much. Raises GrammarError."""
    if len(schema) > PLAIN_BYTES or not _is_plain(schema):
        complaint = _complaint(schema)
        if complaint:
            raise GrammarError(complaint)


def _is_plain(schema: str) -> bool:
    """Whether nothing in it can multiply: no conjunctions, that is, and no automata of remainders."""
    try:
        waiting: list[Any] = [msgspec.json.decode(schema)]
    except msgspec.DecodeError as error:
        raise GrammarError(f"the schema is not JSON: {error}") from error
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += node
        elif isinstance(node, dict):
            if TRIED & node.keys() or ("$ref" in node and node.keys() - ALONE):
                return False
            waiting += node.values()
    return True


@lru_cache(maxsize=8)
def _complaint(schema: str) -> str:
    """What a trial says against `schema`; "" where nothing."""
    command = [sys.executable, "-P", "-m", "hearthd.engine.trial"]
    text, pipe, nowhere = schema.encode(), subprocess.PIPE, subprocess.DEVNULL
    try:
        done = subprocess.run(command, input=text, stdout=pipe, stderr=nowhere, timeout=WAIT_S, check=False)
    except subprocess.TimeoutExpired:
        return "the schema is too complex: compiling it takes too long"
    if done.returncode:
        return "the schema is too complex: compiling it takes too much time or memory"
    return done.stdout.decode()


def main() -> None:
    """Compiles what standard input says, over a vocabulary of single bytes, with half the stack that a process has."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_DATA, (DATA_BYTES, DATA_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.stack_size(STACK_BYTES)
    thread = threading.Thread(target=_try, args=[sys.stdin.buffer.read().decode()])
    thread.start()
    thread.join()


def _try(schema: str) -> None:
    import llguidance

    try:
        compiled(llguidance.LLTokenizer("byte"), schema)
    except GrammarError as error:
        sys.stdout.write(error.reason)
    except BaseException:  # a panic of the library is none of Exception
        os._exit(1)


if __name__ == "__main__":
    main()
