"""Counts the hand-written lines of each client, without blank lines and comments.

    python -m tools.client_lines

Tests, examples, generated code and what generates it are not counted. Data connections (level 3 of the
contract), which a client can leave out, are counted apart.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

CLIENTS = Path(__file__).parents[1] / "clients"

SOURCES = {
    "go": ["*.go"],
    "typescript": ["src/*.ts"],
    "rust": ["src/*.rs"],
    "java": ["src/main/java/dev/optserve/*.java"],
    "cpp": ["include/optserve/*.h", "src/*.h", "src/*.cc"],
}
"""Patterns of the files of each client."""

DATA_CONNECTIONS = {"data-channel.ts", "data_channel.h", "data_channel.cc"}

COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)


def count_lines(text: str) -> int:
    """Number of lines that have more than a comment."""
    return sum(bool(line.strip()) for line in COMMENT.sub("", text).splitlines())


def count_client(client: str) -> tuple[int, int]:
    """Lines of a client, and those of its data connections."""
    files = [path for pattern in SOURCES[client] for path in (CLIENTS / client).glob(pattern)]
    lines = {path.name: count_lines(path.read_text()) for path in files if not path.name.endswith("_test.go")}
    apart = sum(lines.pop(name, 0) for name in DATA_CONNECTIONS)
    return sum(lines.values()), apart


def main() -> int:
    """Prints the lines of each client."""
    print(f"{'client':12}{'lines':>7}{'data connections':>19}")
    for client in SOURCES:
        lines, apart = count_client(client)
        print(f"{client:12}{lines:7,}{apart or '':>19}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
