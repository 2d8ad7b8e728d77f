"""Imports point one way, so that a reader of one package need not know those above it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "stacks",
    "recovery",
    "functions",
    "local_cloud",
    "deployment",
    "drctl",
    "drills",
    "privilege",
    "assessment",
    "benchmarks",
)

MAY_IMPORT = {
    "recovery": set(),
    "functions": {"recovery"},
    "stacks": {"recovery.objectives", "recovery.promise", "recovery.worst_case"},
    "local_cloud": set(),
    "deployment": {"recovery", "stacks.settings", "stacks.names", "stacks.promised"},
    "drctl": {"recovery", "deployment", "stacks.settings", "stacks.names"},
    "drills": {"recovery", "deployment", "stacks.settings", "stacks.names"},
    "privilege": {"deployment", "drills", "recovery.clock", "stacks.settings", "stacks.unused_permissions"},
    "assessment": {
        *("deployment", "recovery.promise", "recovery.worst_case"),
        *("stacks.settings", "stacks.names", "stacks.templates", "stacks.promised"),
    },
    "benchmarks": {"recovery", "deployment", "stacks.settings", "drills", "local_cloud"},
}


def imports_of(file: Path) -> set[str]:
    """The modules of ours that a file imports, also inside of functions and under TYPE_CHECKING."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return {name for name in found if name.split(".")[0] in PACKAGES}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_what_lies_below_it(package: str) -> None:
    allowed = MAY_IMPORT[package] | {package}
    strays = {
        f"{file.relative_to(ROOT)} imports {name}"
        for file in (ROOT / package).rglob("*.py")
        for name in imports_of(file)
        if not any(name == prefix or name.startswith(f"{prefix}.") for prefix in allowed)
    }
    assert not strays


@pytest.mark.parametrize("package", PACKAGES)
def test_the_environment_is_read_in_one_place_per_program(package: str) -> None:
    entrances = {"app.py", "__main__.py", "environment.py"}
    # A function's worker is a program of its own; the server only *sets* what the emulator reads when it is imported.
    entrances |= {"function_bootstrap.py", "server.py"}
    readers = {
        str(file.relative_to(ROOT))
        for file in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv") and file.name not in entrances
    }
    assert not readers


def test_no_file_names_a_path_of_a_developers_machine() -> None:
    suspicious = ("/home/", "/Users/", "/root/")
    strays = {
        str(file.relative_to(ROOT))
        for package in (*PACKAGES, "docs")
        for file in (ROOT / package).rglob("*")
        if file.suffix in (".py", ".md", ".json", ".yml")
        and any(s in file.read_text(encoding="utf-8") for s in suspicious)
    }
    assert not strays
