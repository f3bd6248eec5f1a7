"""Lints prose (Markdown, docstrings, comments) and names of functions.

python -m tools.prose            the paths that the vocabulary gates; any finding fails
python -m tools.prose --all      every file of the repository, with a count for each
python -m tools.prose PATH...    these files
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tools.prose.lint import Finding, Vocabulary, findings_in

ROOT = Path(__file__).parents[2]
VOCABULARY = Path(__file__).with_name("vocabulary.toml")


def main(arguments: list[str] | None = None) -> int:
    """Prints findings; the exit status is 1 if there are any."""
    parser = argparse.ArgumentParser(prog="make prose", description="Lints prose.")
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH")
    parser.add_argument("--all", action="store_true", help="every file, gated or not")
    options = parser.parse_args(arguments)
    vocabulary = Vocabulary.load(VOCABULARY)
    paths = options.paths or [
        path for path in list_files() if options.all or vocabulary.gates(path.relative_to(ROOT))
    ]
    found = [finding for path in paths for finding in findings_in(path, vocabulary)]
    for finding in found:
        print(finding.line_of(ROOT))
    if options.all:
        print(counts(found))
    print(f"{len(paths)} files, {len(found)} findings", file=sys.stderr)
    return 1 if found else 0


def list_files() -> list[Path]:
    """The repository's files, new ones included, without generated code."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = (ROOT / line for line in listed.splitlines())
    return [p for p in paths if p.is_file() and "_pb2" not in p.name and p.name != "LICENSE"]


def counts(found: list[Finding]) -> str:
    """Findings by file, most first."""
    by_file = Counter(str(finding.path.relative_to(ROOT)) for finding in found)
    return "\n".join(f"{count:5} {path}" for path, count in by_file.most_common())


if __name__ == "__main__":
    sys.exit(main())
