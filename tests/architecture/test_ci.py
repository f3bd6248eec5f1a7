"""In CI a skip is a failure, wherever it is asked for, and what cannot be shown is said."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SKIPS = {
    "in_a_test": "import pytest\ndef test_it(): pytest.skip('no')\n",
    "by_a_mark": "import pytest\n@pytest.mark.skip(reason='no')\ndef test_it(): pass\n",
    "of_a_module": "import pytest\npytest.skip('no', allow_module_level=True)\n",
    "of_an_import": "import pytest\npytest.importorskip('no_such_module')\n",
}


def run_pytest(folder: Path, text: str, ci: str) -> int:
    shutil.copy(Path(__file__).parents[1] / "conftest.py", folder)
    (folder / "test_sample.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)]
    return subprocess.run(
        command, env={**os.environ, "CI": ci}, cwd=folder, check=False, timeout=60
    ).returncode


@pytest.mark.parametrize("text", SKIPS.values(), ids=SKIPS.keys())
def test_a_skip_fails_in_ci(tmp_path: Path, text: str) -> None:
    assert run_pytest(tmp_path, text, ci="true") in (1, 2)


def test_a_skip_is_a_skip_elsewhere(tmp_path: Path) -> None:
    assert run_pytest(tmp_path, SKIPS["by_a_mark"], ci="") == 0


def test_an_expected_failure_is_no_skip(tmp_path: Path) -> None:
    text = "import pytest\n@pytest.mark.xfail(reason='known', strict=True)\ndef test_it(): assert False\n"
    assert run_pytest(tmp_path, text, ci="true") == 0


CI = Path(__file__).parents[2] / ".ci"
STAGES = "stage ", "side_by_side "


def test_without_tools_no_image_is_claimed(tmp_path: Path) -> None:
    done = subprocess.run(
        ["/bin/bash", str(CI / "image")],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 75
    assert done.stderr.startswith(".ci/image: no image can be made on this machine: ")


@pytest.mark.parametrize(("status", "expected"), [(0, 0), (1, 1), (75, 0)])
def test_the_run_says_what_became_of_the_image(tmp_path: Path, status: int, expected: int) -> None:
    """Its other stages are left out, and the image's script ends as stated."""
    (tmp_path / ".ci").mkdir()
    lines = (CI / "run").read_text().splitlines()
    kept = [line for line in lines if not line.startswith(STAGES) or line.endswith(" image")]
    assert len(lines) - len(kept) >= 5
    for name, text in (("run", "\n".join(kept)), ("image", f"#!/bin/sh\nexit {status}\n")):
        path = tmp_path / ".ci" / name
        path.write_text(text)
        path.chmod(0o700)
    done = subprocess.run(
        [str(tmp_path / ".ci/run")], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == expected, done.stderr
    assert ("NOT SHOWN: the image" in done.stdout) == (status == 75)
    assert ("==== times" in done.stdout) == (status != 1)
