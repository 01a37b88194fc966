"""Who may import whom, as daemon/README.md says; read from the source, nothing is run."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = {"hearthd": ROOT / "daemon" / "hearthd", "hearth_export": ROOT / "export" / "hearth_export"}

# leaves that everybody in hearthd may import
LEAVES = {"hearthd", "hearthd.errors", "hearthd.duration", "hearthd.goals", "hearthd.memory", "hearthd.threads"}
LEAVES |= {"hearthd.cage", "hearthd.envfile", "hearthd.log", "hearthd.notify"}

# place -> what it may import of ours, beside the leaves and itself; the composition root may import everything
ALLOWED = {
    "hearthd.api": {"hearthd.prompt", "hearthd.scheduler", "hearthd.store", "hearthd.registry", "hearthd.options",
                    "hearthd.modelfile", "hearthd.config", "hearthd.host", "hearthd.engine.frames"},
    "hearthd.prompt": set(),
    "hearthd.scheduler": {"hearthd.store", "hearthd.engine.frames"},
    "hearthd.engine": {"hearthd.store.variant", "hearthd.store.needs", "hearthd.store.durable"},
    "hearthd.engine.frames": set(),
    "hearthd.store": set(),
    "hearthd.registry": {"hearthd.store", "hearthd.modelfile", "hearthd.options", "hearthd.transfer.messages",
                         "hearthd.prompt.jinja", "hearthd.prompt.gotags", "hearthd.prompt.gotemplate",
                         "hearthd.prompt.speech", "hearthd.repository"},
    "hearthd.transfer": {"hearthd.store"},
    "hearthd.transfer.messages": set(),
    "hearthd.command": {"hearthd.config", "hearthd.host", "hearthd.values", "hearthd.modelfile", "hearthd.checks",
                        "hearthd.store.names", "hearthd.options", "hearthd.repository", "hearthd.service"},
    "hearthd.checks": {"hearthd.access", "hearthd.config", "hearthd.finding", "hearthd.store",
                       "hearthd.scheduler.placement", "hearthd.policy", "hearthd.service", "hearthd.host"},
    "hearthd.finding": {"hearthd.access", "hearthd.config", "hearthd.store"},
    "hearthd.access": {"hearthd.service"},
    "hearthd.config": {"hearthd.host", "hearthd.values"},
    "hearthd.host": {"hearthd.values"},
    "hearthd.values": set(),
    "hearthd.options": {"hearthd.engine.frames"},
    "hearthd.modelfile": {"hearthd.options"},
    "hearthd.repository": set(),
    "hearthd.policy": {"hearthd.store.names", "hearthd.values", "hearthd.repository"},
    "hearthd.boot": {"hearthd.policy", "hearthd.store", "hearthd.scheduler", "hearthd.registry",
                     "hearthd.engine.frames"},
    "hearthd.service": {"hearthd.config", "hearthd.host", "hearthd.values"},
    "hearthd.preparing": {"hearthd.store", "hearthd.registry"},
    "hearthd.supervision": set(),
    "hearthd.reload": {"hearthd.config", "hearthd.policy", "hearthd.service"},
    "hearthd.starter": {"hearthd.store", "hearthd.registry"},
    "hearth_export": {"hearthd.store", "hearthd.repository", "hearthd.engine.bound"},
}  # fmt: skip
ROOTS = {"hearthd.app", "hearthd.parts", "hearthd.cli", "hearthd.__main__"}
HEAVY = {"numpy", "onnx", "onnxruntime", "tokenizers", "torch", "optimum", "gguf", "llguidance", "jsonschema"}
# for child processes and the command line
HEAVY |= {"aiohttp", "argparse", "cryptography", "httpx", "huggingface_hub", "requests", "rich"}


def modules() -> Iterator[tuple[str, Path]]:
    for package, root in SOURCES.items():
        for path in sorted(root.rglob("*.py")):
            parts = (package, *path.relative_to(root).with_suffix("").parts)
            yield ".".join(part for part in parts if part != "__init__"), path


KNOWN = {name for name, _ in modules()}


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & KNOWN
            found |= submodules if len(submodules) == len(node.names) else {node.module, *submodules}
    return found


def within(name: str, place: str) -> bool:
    return name == place or name.startswith(place + ".")


def place_of(module: str) -> str:
    """The most specific row of ALLOWED that holds the module."""
    rows = [place for place in ALLOWED if within(module, place)]
    return max(rows, key=len, default="")


@pytest.mark.parametrize(("module", "path"), list(modules()), ids=lambda value: value if isinstance(value, str) else "")
def test_module_imports_only_what_its_place_allows(module: str, path: Path) -> None:
    if module in ROOTS or module in LEAVES:
        return
    place = place_of(module)
    assert place, f"{module} has no row in ALLOWED"
    ours = {name for name in imports(path) if name.split(".")[0] in SOURCES}
    for name in ours:
        allowed = name in LEAVES or within(name, place) or any(within(name, row) for row in ALLOWED[place])
        assert allowed, f"{module} imports {name}"


def test_leaves_import_nothing_of_ours_but_leaves() -> None:
    for module, path in modules():
        if module in LEAVES:
            ours = {name for name in imports(path) if name.split(".")[0] in SOURCES}
            assert ours <= LEAVES, module


def test_daemon_source_never_imports_the_exporter() -> None:
    users = [module for module, path in modules() if within(module, "hearthd") and "hearth_export" in imports(path)]
    assert users == []


def test_idle_daemon_imports_no_numeric_library() -> None:
    program = "import sys, hearthd.app, hearthd.cli; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert HEAVY.isdisjoint(loaded), HEAVY.intersection(loaded)
