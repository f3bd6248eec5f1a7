"""Files of generated modules, so that Numba can cache what it compiles from them."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import numba


def cache_folder() -> Path:
    """Where generated modules lie: NUMBA_CACHE_DIR, or the user's cache."""
    chosen = str(getattr(numba.config, "CACHE_DIR", ""))
    if chosen:
        return Path(chosen) / "optserve"
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "optserve" / "numba"


def load_module(source: str) -> tuple[ModuleType, bool]:
    """The module with this text, and whether it has a file that caches can refer to.

    Where the folder cannot be written, the module lives in memory alone.
    """
    name = _module_name(source)
    try:
        path = _write_once(cache_folder() / f"{name}.py", source)
    except (OSError, RuntimeError):  # RuntimeError: there is no home directory
        return compile_module(source, {}), False
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"no loader for {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # cached kernels are unpickled by module name
    spec.loader.exec_module(module)
    return module, True


def compile_module(source: str, names: Mapping[str, object]) -> ModuleType:
    """The module with this text, which nothing else refers to and which knows ``names``."""
    name = _module_name(source)
    module = ModuleType(name)
    module.__dict__.update(names)
    exec(compile(source, f"<{name}>", "exec"), module.__dict__)
    return module


def _module_name(source: str) -> str:
    return "optserve_kernel_" + hashlib.sha256(source.encode()).hexdigest()[:32]


def _write_once(path: Path, source: str) -> Path:
    """Writes ``source`` to ``path`` unless it is there already; others may do the same."""
    if path.is_file() and path.read_text(encoding="utf-8") == source:
        return path
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(source)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    return path
