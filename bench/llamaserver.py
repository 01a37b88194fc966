"""llama.cpp's own HTTP server, from the xllamacpp wheel, in a process of its own.

    python -m bench.llamaserver SOURCE SLOTS CONTEXT KV_TYPE

CONTEXT is that of one slot. Prints one line of JSON, {"port", "bare_mib", "load_s"}, and ends with standard input.
`bare_mib` is what this interpreter took before it imported the wheel.
"""

from __future__ import annotations

import json
import os
import sys
import time
from urllib.parse import urlsplit

import psutil

from bench.workload import NUM_THREADS

KV_TYPES = {"f16": "GGML_TYPE_F16", "f32": "GGML_TYPE_F32", "q8_0": "GGML_TYPE_Q8_0"}


def main(source: str, num_slots: int, num_ctx: int, kv_type: str) -> None:
    """Serves until standard input ends."""
    bare_bytes = psutil.Process().memory_info().rss
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = source
    params.n_ctx, params.n_parallel = num_ctx * num_slots, num_slots
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = NUM_THREADS
    params.cache_type_k = params.cache_type_v = getattr(xllamacpp.ggml_type, KV_TYPES[kv_type])
    params.cache_ram_mib = (
        0  # copies of the prompts of slots that are taken over: memory and time that are not compared
    )
    params.verbosity = -1
    started = time.perf_counter()
    server = xllamacpp.Server(params)
    ready = {
        "port": urlsplit(server.listening_address).port,
        "bare_mib": bare_bytes / (1 << 20),
        "load_s": time.perf_counter() - started,
    }
    print(json.dumps(ready), flush=True)
    sys.stdin.read()
    os._exit(0)  # a server that is taken down in order may wait for ever


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
