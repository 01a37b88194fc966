from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import sys
from pathlib import Path
from hearthd.scheduler.trim import release_freed

def rss_pages():
    return int(Path("/proc/self/statm").read_text().split()[1])

blocks = [bytes(100_000) + b"x" for _ in range(800)]  # below malloc's mmap threshold, so from the heap
pin = bytes(100_000) + b"x"  # keeps the heap's end in use, so that free() alone returns nothing
before = rss_pages()
del blocks
release_freed()
print(before - rss_pages(), "ctypes" in sys.modules)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator can be told to give pages back")
def test_freed_memory_goes_back_to_the_system_without_loading_ctypes() -> None:
    output = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout
    released_pages, ctypes_loaded = output.split()
    assert int(released_pages) > 10_000  # of some 19,500
    assert ctypes_loaded == "False"
