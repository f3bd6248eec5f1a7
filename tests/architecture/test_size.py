"""A file holds one idea, and a function fits on the screen."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("service/optserve_server", "clients/python/src/optserve", "examples", "tests")
GENERATED = "Written by tools/generate_specs.py"


def written_by_hand(path: Path) -> bool:
    return "optserve/v1" not in path.as_posix() and GENERATED not in path.read_text()[:400]


FILES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py")) if written_by_hand(path)]

LONGEST_FILE = 400
LONGEST_FUNCTION = 60
HALF_A_SCREEN = 25


def function_lengths(path: Path) -> dict[str, int]:
    """Lines of each function's body without its docstring, by place and name."""
    lengths = {}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            lengths[f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"] = lines
    return lengths


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_and_no_function_is_long(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST_FILE
    assert {name: n for name, n in function_lengths(path).items() if n > LONGEST_FUNCTION} == {}


def test_most_functions_fit_on_half_a_screen() -> None:
    lengths = [n for path in FILES for n in function_lengths(path).values()]
    short = sum(n <= HALF_A_SCREEN for n in lengths)
    assert short >= 0.95 * len(lengths), f"{len(lengths) - short} of {len(lengths)} functions are longer"
