"""The versions that the project says it runs on: said once, and installed."""

import ast
import importlib.metadata
import pathlib
import re
import tomllib

import pytest
from packaging.requirements import Requirement

ROOT = pathlib.Path(__file__).parents[1]
FILES = ("requirements.txt", "tests/requirements.txt")


def lines(name: str) -> list[str]:
    texts = [line.partition("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    return [text for text in texts if text and not text.startswith("-r")]


REQUIREMENTS = {r.name: r for r in (Requirement(line) for name in FILES for line in lines(name))}


def test_the_oldest_versions_are_the_lower_bounds():
    bounds = {r.name: next(s.version for s in r.specifier if s.operator in (">=", "==")) for r in REQUIREMENTS.values()}
    assert dict(line.split("==") for line in lines("tests/oldest.txt")) == bounds


@pytest.mark.parametrize("name", REQUIREMENTS)
def test_what_is_installed_is_allowed(name):
    if name == "torch":
        pytest.importorskip("torch")
    assert REQUIREMENTS[name].specifier.contains(importlib.metadata.version(name))


def test_the_minor_versions_of_python_are_those_of_the_readme():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [text.rpartition(" ")[2] for text in project["classifiers"] if "Python :: 3." in text]
    assert named == ["3.11", "3.12", "3.13"] and project["requires-python"] == f">={named[0]}"
    assert re.search(f"Python {named[0]} to {named[-1]}", (ROOT / "README.md").read_text())


def test_every_private_name_of_jax_is_imported_in_a_try():
    """So that a version without it can be told by a sentence."""
    guarded = set()
    for folder in ("tadjax", "convert", "configs", "launch"):
        for path in (ROOT / folder).rglob("*.py"):
            tree = ast.parse(path.read_text())
            inside = {id(node) for block in ast.walk(tree) if isinstance(block, ast.Try) for node in ast.walk(block)}
            for node in ast.walk(tree):
                if isinstance(node, ast.Import | ast.ImportFrom) and "jax._src" in ast.unparse(node):
                    assert id(node) in inside, f"{path}:{node.lineno}"
                    guarded.add(path.name)
    assert guarded == {"hosts.py", "topologies.py"}
