"""import-linter holds the layers, and would notice a breach."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # make check asks whether the layers hold

ROOT = Path(__file__).parents[2]

BREACHES = {
    "a lower layer imports a higher one": (
        "hyperparameters.py",
        "import optserve_server.spec.session_spec",
    ),
    "sessions import a concrete backend": (
        "state/layout.py",
        "import optserve_server.arrays.numpy_blocked",
    ),
    "an executor imports an optimizer": (
        "arrays/numpy_blocked.py",
        "import optserve_server.optimizers.adam",
    ),
    "sessions import gRPC": ("state/layout.py", "import grpc"),
    "wire imports gRPC outside errors": ("wire/specifications/specs.py", "import grpc"),
    "sessions import generated messages": ("state/layout.py", "import optserve.v1"),
    "state imports sessions for a type": (
        "state/layout.py",
        "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    import optserve_server.sessions.session",
    ),
    "two modules of a package import each other": (
        "state/layout.py",
        "import optserve_server.state.staging",
    ),
    "transport imports a service": (
        "rpc/transport/tls.py",
        "import optserve_server.rpc.services.session_service",
    ),
    "an executor imports protobuf": ("arrays/numpy_blocked.py", "import google.protobuf"),
    "a rule imports CuPy": ("optimizers/adam.py", "import cupy"),
}


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", program, "--no-cache"]
    return subprocess.run(
        command,
        cwd=root,
        env={"PYTHONPATH": str(root / "service"), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_layers_hold() -> None:
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(("file", "line"), BREACHES.values(), ids=BREACHES.keys())
def test_a_breach_is_noticed(tmp_path: Path, file: str, line: str) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    package = tmp_path / "service" / "optserve_server"
    shutil.copytree(ROOT / "service" / "optserve_server", package)
    target = package / file
    target.write_text(f"{target.read_text()}\n\n{line}\n")
    result = lint_imports(tmp_path)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "BROKEN" in result.stdout
