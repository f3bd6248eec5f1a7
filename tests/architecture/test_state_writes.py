"""A session's counters are written by its commits, and by the one function that recovery and restore use."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

SERVICE = Path(__file__).parents[2] / "service" / "optserve_server"
COUNTERS = {"step", "accumulated", "skipped"}


def writers(root: Path) -> set[str]:
    """Functions that assign a counter of a session, as ``file: function``."""
    return {
        f"{path.relative_to(root)}: {function.name}"
        for path in root.rglob("*.py")
        for function in ast.walk(ast.parse(path.read_text()))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        if any(_is_counter(target, path.name) for target in _targets(function))
    }


def _targets(function: ast.AST) -> Iterator[ast.expr]:
    for node in ast.walk(function):
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AugAssign | ast.AnnAssign):
            targets = [node.target]
        for target in targets:
            yield from target.elts if isinstance(target, ast.Tuple) else [target]


def _is_counter(target: ast.expr, file_name: str) -> bool:
    if not isinstance(target, ast.Attribute) or target.attr not in COUNTERS:
        return False
    written = ast.unparse(target.value)
    return written.split(".")[-1] in ("session", "_session") or (
        written == "self" and file_name in ("session.py", "session_state.py")
    )


def test_counters_are_written_by_commits_and_by_one_function() -> None:
    state = "state/session_state.py"
    assert writers(SERVICE) == {f"{state}: {name}" for name in ("__init__", "complete_step", "restore")}


def test_a_breach_is_found(tmp_path: Path) -> None:
    (tmp_path / "breach.py").write_text("def restore(session):\n    session.step, session.skipped = 1, 2\n")
    assert writers(tmp_path) == {"breach.py: restore"}
