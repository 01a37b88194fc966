"""The CPU: ONNX Runtime's own kernels."""

from __future__ import annotations

import os
from pathlib import Path

import onnxruntime as ort

from hearthd.engine.providers.provider import Opening

PREFILL_CHUNK = 128  # longer chunks gain nothing and keep a cancel waiting
MIN_EXTERNAL_BYTES = "1024"  # of a constant that does not stay in the graph's file


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

    def open(self, graph: Path, *, wide: bool = False) -> ort.InferenceSession:
        options = self._options()
        if wide:
            options.enable_cpu_mem_arena = True
            # weights stay out of the arena, which would round their sizes up
            options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
        return self._session(graph, options)

    def save_packed(self, graph: Path, target: Path) -> bool:
        """As Provider.save_packed; the data goes to a file beside `target`, named after it."""
        options = self._options()
        options.optimized_model_filepath = str(target)
        for key, value in (
            ("session.optimized_model_external_initializers_file_name", target.name + ".data"),
            ("session.optimized_model_external_initializers_min_size_in_bytes", MIN_EXTERNAL_BYTES),
            ("session.save_external_prepacked_constant_initializers", "1"),
        ):
            options.add_session_config_entry(key, value)
        self._session(graph, options)
        return True

    def _session(self, graph: Path, options: ort.SessionOptions) -> ort.InferenceSession:
        # the names of disabled optimizers are asked for when the graph is read and the long part of the work begins
        return ort.InferenceSession(
            str(graph), options, providers=["CPUExecutionProvider"], disabled_optimizers=Opening()
        )

    def _options(self) -> ort.SessionOptions:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.num_threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        # an arena only grows; without one a long prompt's memory goes back when it is done
        options.enable_cpu_mem_arena = False
        options.log_severity_level = 3
        return options
