"""The README keeps its word: its example runs, its links and commands exist."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.server import running_server

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_the_example_trains(capsys: pytest.CaptureFixture[str]) -> None:
    found = re.search(r"```python\n(.*?)```", README, re.S)
    assert found
    code = found[1]
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    names: dict[str, Any] = {}
    with running_server() as server:
        assert "localhost:50051" in code
        exec(compile(code.replace("localhost:50051", server.address), "README.md", "exec"), names)
    np.testing.assert_allclose(names["w"], [1, -2, 0.5], atol=1e-3)
    printed = re.search(r"print\(.*# (.*)", code)
    assert printed
    assert capsys.readouterr().out.strip() == printed[1]


@pytest.mark.parametrize(
    "page", sorted([ROOT / "README.md", *ROOT.glob("*/README.md"), *ROOT.glob("docs/*.md")])
)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []


def test_commands_exist() -> None:
    told = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    ).stdout
    for target in set(re.findall(r"make ([a-z-]+) ", README)):
        assert f"make {target} " in told
