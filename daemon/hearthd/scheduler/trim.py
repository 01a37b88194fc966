"""Giving freed memory back to the system, after something large has gone."""

from __future__ import annotations

import gc


def release_freed() -> None:
    """Collects garbage, and has the allocator return its free pages where it is glibc's (malloc_trim(3))."""
    gc.collect()
    try:
        import _ctypes  # the package ctypes around it would cost memory for good

        trim = _ctypes.dlsym(_ctypes.dlopen(None, 0), "malloc_trim")  # type: ignore[arg-type]
        _ctypes.call_function(trim, (0,))
    except (ImportError, AttributeError, OSError):
        return
