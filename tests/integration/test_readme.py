"""README and documentation: their code runs, what it prints is what they say, links and commands exist."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from optserve.commands.main import main
from tests.support.pages import claims_of, code_of, run
from tests.support.server import RunningServer, running_server

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = sorted(path for path in (ROOT / "docs").rglob("*.md"))
RUNNABLE = [page for page in [README, *PAGES] if "import optserve" in code_of(page)]
"""Pages with programs, and not fragments."""
FRAMEWORKS = "import torch", "import jax", "import keras"
RUN_HERE = [page for page in RUNNABLE if not any(line in code_of(page) for line in FRAMEWORKS)]
"""The others run where the frameworks are (make tutorial-frameworks)."""


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """One for all pages, each of which deletes or leaves unnamed what it makes."""
    with running_server() as started:
        yield started


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_the_pages_that_run_are_these() -> None:
    assert {name_of(page) for page in RUNNABLE} >= {
        "README.md",
        "docs/getting_started.md",
        "docs/how_to/backup.md",
        *(f"docs/tutorials/{name}.md" for name in ("course", "course.zh", "keras", "optax", "pytorch")),
        *(f"docs/tutorials/{name}.md" for name in ("remote_training", "several_workers")),
    }


def test_the_readme_needs_ten_lines() -> None:
    assert len([line for line in code_of(README).splitlines() if line.strip()]) <= 10


@pytest.mark.parametrize("page", RUN_HERE, ids=name_of)
def test_a_page_prints_what_it_says(
    page: Path, server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert claims_of(page)
    assert run(page, server.address) == claims_of(page)


def test_the_course_draws_its_pictures(
    server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs/tutorials/course.md").read_text()
    commands = re.findall(r"^optserve (plot (?:.*\\\n)*.*)$", text, re.M)
    assert len(commands) == 4
    for command in commands:
        arguments = command.replace("\\\n", " ").split()
        assert main([*arguments, "--server", server.address]) == 0
        assert (tmp_path / arguments[-1]).stat().st_size > 1000


def test_both_languages_run_the_same_code() -> None:
    english, chinese = (ROOT / f"docs/tutorials/course{suffix}.md" for suffix in ("", ".zh"))

    def statements(page: Path) -> list[str]:
        return [line for line in code_of(page).splitlines() if line.strip()]

    assert statements(english) == statements(chinese)


@pytest.mark.parametrize("page", [README, *sorted(ROOT.glob("*/README.md")), *PAGES], ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)", page.read_text())
    names = ("command_line", "contract", "errors", "metrics", "settings")
    generated = {ROOT / f"docs/reference/{name}.md" for name in names}
    targets = {link: (page.parent / link).resolve() for link in links if "://" not in link}
    assert [link for link, path in targets.items() if not path.exists() and path not in generated] == []


@pytest.mark.parametrize(
    "page", [README, ROOT / "CONTRIBUTING.md", ROOT / "docs/getting_started.md"], ids=name_of
)
def test_commands_exist(page: Path) -> None:
    listed = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    ).stdout
    for target in set(re.findall(r"^make ([a-z-]+)", page.read_text(), re.M)):
        assert f"make {target} " in listed
