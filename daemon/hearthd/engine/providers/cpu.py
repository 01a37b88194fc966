"""The CPU: ONNX Runtime's own kernels."""

from __future__ import annotations

import os
from pathlib import Path

import onnxruntime as ort

PREFILL_CHUNK = 128  # longer chunks gain nothing and keep a cancel waiting


class CpuProvider:
    """Runs a graph on `num_threads` cores (0: all that this process may use)."""

    name = "cpu"
    prefill_chunk = PREFILL_CHUNK

    def __init__(self, num_threads: int = 0) -> None:
        available = len(os.sched_getaffinity(0))
        self.num_threads = min(num_threads, available) if num_threads > 0 else available

    @property
    def device(self) -> str:
        return f"CPU, {self.num_threads} threads"

    def open(self, graph: Path) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.num_threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        # an arena only grows; without one a long prompt's memory goes back when it is done
        options.enable_cpu_mem_arena = False
        options.log_severity_level = 3
        return ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
