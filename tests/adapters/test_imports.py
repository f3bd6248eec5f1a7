"""The client loads no framework and no adapter of its own accord."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

FRAMEWORKS = ("torch", "optax", "jax", "keras", "tensorflow", "tensorboard", "mlflow", "safetensors")


@pytest.mark.parametrize("adapter", ["torch", "optax", "keras"])
def test_an_adapter_is_loaded_by_its_first_use(adapter):
    program = f"""
import sys
import optserve
optserve.connect("localhost:1").close()
loaded = set({FRAMEWORKS}) | {{"optserve." + name for name in {FRAMEWORKS}}}
assert not loaded & set(sys.modules), loaded & set(sys.modules)
getattr(optserve, {adapter!r})
assert {adapter!r} in sys.modules
"""
    environment = os.environ | {"KERAS_BACKEND": "jax"}
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120, env=environment)
