"""llama.cpp's own HTTP server for embeddings, from the xllamacpp wheel, in a process of its own.

    python -m bench.embeddingserver SOURCE SLOTS CONTEXT

CONTEXT is that of one slot. Prints one line of JSON, {"port"}, and ends with standard input.
"""

from __future__ import annotations

import json
import os
import sys
from urllib.parse import urlsplit

from bench.workload import NUM_THREADS


def main(source: str, num_slots: int, num_ctx: int) -> None:
    """Serves until standard input ends."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = source
    params.embedding = True
    params.n_ctx, params.n_parallel = num_ctx * num_slots, num_slots
    params.n_batch = params.n_ubatch = num_ctx  # a text must fit
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = NUM_THREADS
    params.verbosity = -1
    server = xllamacpp.Server(params)
    print(json.dumps({"port": urlsplit(server.listening_address).port}), flush=True)
    sys.stdin.read()
    os._exit(0)  # a server that is taken down in order may wait for ever


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
