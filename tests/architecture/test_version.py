"""clients/python/VERSION is the version; files that have to repeat it have the same one."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import pytest

import optserve
import optserve_server

ROOT = Path(__file__).parents[2]
VERSION = (ROOT / "clients/python/VERSION").read_text().strip()

REPEATED = {
    "deploy/compose.yaml": r"image: optserve-server:(\S+)",
    "deploy/kubernetes/kustomization.yaml": r"newTag: (\S+)",
    "CITATION.cff": r"(?m)^version: (\S+)",
    "CHANGELOG.md": r"(?m)^## \[([^\]]+)\]",
}


def test_installed_distributions_have_it() -> None:
    assert optserve.__version__ == version("optserve") == VERSION
    assert optserve_server.__version__ == version("optserve-server") == VERSION


@pytest.mark.parametrize("file", REPEATED)
def test_files_repeat_it(file: str) -> None:
    found = re.search(REPEATED[file], (ROOT / file).read_text())
    assert found, f"{file} states no version"
    assert found[1] == VERSION


def test_server_asks_for_a_client_of_its_minor_version() -> None:
    major, minor, _ = VERSION.split(".", 2)
    assert f'"optserve=={major}.{minor}.*"' in (ROOT / "pyproject.toml").read_text()
