"""An engine in a process of its own: `python -m bench.worker NAME SOURCE`, JSON commands in, JSON answers out."""

from __future__ import annotations

import gc
import json
import sys
import time
from pathlib import Path
from typing import Any, Protocol

from bench.workload import NUM_CTX, NUM_THREADS


class Engine(Protocol):
    """Loads one model and continues prompts."""

    def load(self) -> None: ...
    def generate(self, ids: list[int], num_predict: int) -> dict[str, float]: ...
    def unload(self) -> None: ...


class InProcess:
    """This project's engine without daemon or socket: the runner's own batch, called directly."""

    def __init__(self, variant_dir: str) -> None:
        from hearthd.engine import batch, frames, session, tokens
        from hearthd.store.variant import read_variant

        self._modules = (batch, frames, session, tokens)
        info = read_variant(Path(variant_dir))
        assert info is not None, variant_dir
        self._directory, self._info, self._batch = Path(variant_dir), info, None

    def load(self) -> None:
        batch, _, session, tokens = self._modules
        self._session = session.open_session(
            self._directory, self._info, num_ctx=NUM_CTX, num_threads=NUM_THREADS, num_batch=512
        )
        self._tokenizer = tokens.Tokenizer(self._directory / self._info.tokenizer, self._info)
        self._frames: list[tuple[float, Any]] = []
        self._batch = batch.Batch(self._session, self._tokenizer, self._info, self._took)

    def _took(self, *sent: Any) -> None:
        self._frames.extend((time.perf_counter(), frame) for frame in sent)

    def generate(self, ids: list[int], num_predict: int) -> dict[str, float]:
        frames = self._modules[1]
        assert self._batch is not None
        self._frames.clear()
        text = self._tokenizer.text_of(ids)
        greedy = frames.SamplingParams(temperature=0.0)
        started = time.perf_counter()
        self._batch.add(frames.Generate(1, text, sampling=greedy, num_predict=num_predict))
        while not self._batch.idle:
            self._batch.step()
        first, (ended, done) = self._frames[0][0], self._frames[-1]
        return {
            "prompt_tokens": done.prompt_count,
            "first_token_s": first - started,
            "prefill_tokens_s": (done.prompt_count - done.cached_count) / (done.prompt_ns / 1e9),
            "decode_tokens_s": (done.eval_count - 1) / (ended - first),
        }

    def unload(self) -> None:
        self._batch = None
        self._session.close()
        del self._session, self._tokenizer
        gc.collect()


class LlamaCpp:
    """llama.cpp from the xllamacpp wheel, same file, same threads."""

    def __init__(self, source: str) -> None:
        import xllamacpp

        self._module, self._source = xllamacpp, source

    def load(self) -> None:
        params = self._module.CommonParams()
        params.model.path = self._source
        params.n_ctx, params.n_parallel = NUM_CTX, 1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = NUM_THREADS
        params.verbosity = -1
        self._server = self._module.Server(params)

    def generate(self, ids: list[int], num_predict: int) -> dict[str, float]:
        request = {
            "prompt": ids,
            "n_predict": num_predict,
            "temperature": 0,
            "cache_prompt": False,
            "ignore_eos": True,
        }
        answer = self._server.handle_completions(request)
        timings = (answer if isinstance(answer, dict) else json.loads(answer))["timings"]
        return {
            "prompt_tokens": timings["prompt_n"],
            "first_token_s": timings["prompt_ms"] / 1e3,
            "prefill_tokens_s": timings["prompt_per_second"],
            "decode_tokens_s": timings["predicted_per_second"],
        }

    def unload(self) -> None:
        self.generate([1], 1)  # a server deleted before its loop has turned once never returns
        del self._server
        gc.collect()


def main(name: str, source: str) -> None:
    """Answers commands until standard input ends."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # libraries print what they like
    engine: Engine = InProcess(source) if name == "inprocess" else LlamaCpp(source)

    def answer(content: dict[str, object]) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    answer({"ready": True})
    for line in sys.stdin:
        command, arguments = json.loads(line)
        started = time.perf_counter()
        result = getattr(engine, command)(*arguments)
        answer({"result": result, "seconds": time.perf_counter() - started})


if __name__ == "__main__":
    main(*sys.argv[1:])
