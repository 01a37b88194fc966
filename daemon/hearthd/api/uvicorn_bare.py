"""uvicorn without its command line.

`import uvicorn` also imports click, multiprocessing and its reloader: 2.3 MiB that a daemon of 35 MiB
would keep for good. What its modules import from the package is given to them lazily.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from typing import Any

_NAMES = {"Config": "uvicorn.config", "Server": "uvicorn.server"}


def install() -> None:
    """Put a lazy `uvicorn` package in place, unless the whole one has been imported already."""
    found = find_spec("uvicorn")
    if "uvicorn" in sys.modules or found is None:
        return
    bare = ModuleSpec("uvicorn", None, origin=found.origin, is_package=True)
    bare.submodule_search_locations = found.submodule_search_locations
    package = module_from_spec(bare)
    vars(package)["__getattr__"] = _attribute
    sys.modules["uvicorn"] = package


def _attribute(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(name)
    return getattr(import_module(_NAMES[name]), name)
