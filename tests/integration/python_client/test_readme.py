"""The README's example does what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[3] / "clients" / "python" / "README.md"


def test_the_first_example_finds_the_weights(server):
    code = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[0]
    assert len(code.splitlines()) <= 12
    code = code.replace("localhost:50051", server.address)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.replace(" ", "") == "[1.-2.0.5]\n"


def test_every_example_compiles():
    for code in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL):
        compile(code, str(README), "exec")
