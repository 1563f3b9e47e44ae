"""The house's one-way imports (docs/design.md), read from the source text."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("plugin", "dicom_io", "models", "samples")
MODELS_MAY_USE = {"dicom_io.volume", "dicom_io.cohort", "dicom_io.errors", "dicom_io.nifti", "dicom_io.provenance"}


def modules(package: str) -> Iterator[tuple[str, Path]]:
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports(path: Path, *, only_at_import: bool = False) -> Iterator[str]:
    """Names that a file imports; `only_at_import` leaves out those inside functions and under TYPE_CHECKING."""
    pending: list[ast.AST] = [ast.parse(path.read_text())]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        lazy = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        )
        if not (only_at_import and lazy):
            pending.extend(ast.iter_child_nodes(node))


def ours(name: str) -> bool:
    return name.split(".")[0] in PACKAGES


def test_dicom_io_uses_nothing_of_ours_and_neither_torch_nor_network_nor_database() -> None:
    foreign = {
        "torch",
        "monai",
        "sqlalchemy",
        "httpx",
        "requests",
        "socket",
        "pynetdicom",
        "fastapi",
        "dicomweb_client",
    }
    for module, path in modules("dicom_io"):
        for name in imports(path):
            assert not ours(name) or name.startswith("dicom_io"), f"{module} imports {name}"
            assert name.split(".")[0] not in foreign, f"{module} imports {name}"


def test_models_know_only_volumes_cohorts_and_errors_of_dicom_io() -> None:
    foreign = {"sqlalchemy", "httpx", "requests", "socket", "pynetdicom", "fastapi", "pydicom"}
    for module, path in modules("models"):
        for name in imports(path):
            assert name.split(".")[0] not in {"plugin", "samples"} | foreign, f"{module} imports {name}"
            if name.startswith("dicom_io."):
                assert ".".join(name.split(".")[:2]) in MODELS_MAY_USE, f"{module} imports {name}"


def test_samples_do_not_use_the_service() -> None:
    for module, path in modules("samples"):
        assert not [name for name in imports(path) if name.split(".")[0] == "plugin"], module


def test_the_service_uses_samples_only_in_its_command_line_and_lazily() -> None:
    for module, path in modules("plugin"):
        assert not [n for n in imports(path, only_at_import=True) if n.split(".")[0] == "samples"], module
        if not module.startswith("plugin.cli"):
            assert not [n for n in imports(path) if n.split(".")[0] == "samples"], module


@pytest.mark.parametrize("package", PACKAGES)
def test_there_are_no_import_cycles(package: str) -> None:
    known = dict(modules(package))
    graph = {
        module: {name for name in imports(path, only_at_import=True) if name in known and name != module}
        for module, path in known.items()
    }
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail, module))
        if module not in done:
            for following in graph[module]:
                # A package that gathers its own modules is not a cycle by itself.
                if not trail or not module.startswith(f"{following}."):
                    visit(following, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("module", ["plugin.cli", "dicom_io.volume", "dicom_io.cohort"])
def test_doors_and_help_load_neither_torch_nor_monai(module: str) -> None:
    code = f"import sys, {module}; sys.exit(int(bool({{'torch', 'monai'}} & set(sys.modules))))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
