"""The linter of prose finds what it is to find, and nothing in code."""

from __future__ import annotations

from pathlib import Path, PurePath

import pytest

from tools.prose.__main__ import VOCABULARY, main
from tools.prose.lint import Vocabulary, findings_in

WORDS = Vocabulary.load(VOCABULARY)

PLANTED = {
    "page.md": ("# Title\n\nNobody reads `nobody` or this.\n\n```\nnobody\n```\n", [3]),
    "broken.md": ("The page says what\nbecomes of it, and [nobody](nobody.md).\n", [1, 2]),
    "module.py": (
        '"""What becomes\n\n  of nobody."""\n\nnobody = "nobody"  # somebody\n'
        'X = 1\n"""Tells what it is."""\n',
        [1, 3, 5, 7],
    ),
    "contract.proto": ("// For want of\nmessage Nobody {}  // is told\n", [1, 2]),
    "data.csv": ("nobody\n", []),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_words_are_found(name: str, tmp_path: Path) -> None:
    text, lines = PLANTED[name]
    (tmp_path / name).write_text(text)
    assert [finding.line for finding in findings_in(tmp_path / name, WORDS)] == lines


def test_participles_are_no_names_of_functions(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        "def staged(): ...\n"
        "def _taken_back(): ...\n"
        "class Session:\n"
        "    async def switched(self): ...\n"
        "    @property\n"
        "    def closed(self): ...\n"
        "    def embed(self): ...\n"
        "    def shared_memory(self): ...\n"
        "@pytest.fixture(scope='module')\n"
        "def loaded(): ...\n"
        "def stage(): ...\n"
    )
    assert [(f.line, f.text) for f in findings_in(path, WORDS)] == [
        (1, "staged"),
        (2, "_taken_back"),
        (4, "switched"),
    ]


def test_a_finding_fails_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text("Sentences for everybody.\n")
    assert main([str(page)]) == 1
    assert capsys.readouterr().out == f"{page}:1: 'everybody': client, caller, user, anyone, or the passive\n"
    page.write_text("Sentences for all users.\n")
    assert main([str(page)]) == 0


@pytest.mark.parametrize(
    ("path", "gated"),
    [
        ("README.md", True),
        ("docs/how_to/backup.md", True),
        ("docs/index.md", True),
        ("docs/architecture.md", True),
        ("service/optserve_server/rpc/server/server.py", True),
        ("clients/python/src/optserve/client.py", True),
        ("tests/architecture/test_prose.py", True),
        ("proto/google/rpc/status.proto", False),
    ],
)
def test_gates(path: str, gated: bool) -> None:
    assert WORDS.gates(PurePath(path)) is gated
