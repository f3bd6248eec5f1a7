"""Runs the code of a documentation page against a server, and compares what it prints.

Every ``python`` block of a page is run, in order, in one namespace. A line ``print(...)  # text`` is a
claim: the page must print these texts, in this order, and nothing else.

    python -m tests.support.pages docs/tutorials/pytorch.md
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from pathlib import Path
from typing import Any

from tests.support.server import running_server

ADDRESS = "localhost:50051"
"""The address that pages use, replaced by the test server's."""

_BLOCK = re.compile(r"^```python\n(.*?)^```", re.S | re.M)
_CLAIM = re.compile(r"^\s*print\(.*\)  # (.+)$", re.M)


def code_of(page: Path) -> str:
    """All Python blocks of a page, each on the lines that it has there."""
    text = page.read_text()
    lines = [""] * len(text.splitlines())
    for block in _BLOCK.finditer(text):
        first = text.count("\n", 0, block.start(1))
        for number, line in enumerate(block[1].splitlines()):
            lines[first + number] = line
    return "\n".join(lines)


def claims_of(page: Path) -> list[str]:
    """What a page says that it prints."""
    return _CLAIM.findall(code_of(page))


def run(page: Path, address: str) -> list[str]:
    """Runs a page against the server at an address; returns the lines that it printed."""
    printed = io.StringIO()
    names: dict[str, Any] = {"__name__": page.stem}
    code = compile(code_of(page).replace(ADDRESS, address), str(page), "exec")
    with contextlib.redirect_stdout(printed):
        exec(code, names)
    return printed.getvalue().splitlines()


def main(paths: list[str]) -> int:
    """Runs pages on a server; the exit status."""
    wrong = 0
    with running_server() as server:
        for page in map(Path, paths):
            printed, claimed = run(page, server.address), claims_of(page)
            good = printed == claimed and bool(claimed)
            wrong += not good
            print(f"{page}: {'ok' if good else f'printed {printed}, claims {claimed}'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
