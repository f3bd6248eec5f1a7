"""Finds public modules, classes and functions without a docstring.

    python -m tools.docstrings optserve optserve_server

A member that overrides a documented one needs none; that is what ruff's D102 cannot see. An adapter for a
package that is not installed is left to ``make test-adapters``.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from importlib.util import find_spec
from types import ModuleType

ADAPTERS = {
    "optserve._adapters.jax_callback": "jax",
    "optserve.torch": "torch",
    "optserve.optax": "optax",
    "optserve.keras": "keras",
    "optserve.recording.mlflow_runs": "mlflow",
}
"""Modules, and the packages that they need."""


def modules_of(package: ModuleType) -> list[str]:
    """Names of the package's modules, without generated stubs and commands."""
    found = [m.name for m in pkgutil.walk_packages(package.__path__, package.__name__ + ".", lambda _: None)]
    left_out = ["optserve.v1.", *(name for name, package in ADAPTERS.items() if find_spec(package) is None)]
    return [name for name in found if not name.startswith(tuple(left_out)) and not name.endswith("__main__")]


def own_members(owner: object, module: str) -> list[tuple[str, object]]:
    """Public classes, functions and properties that ``owner`` declares in ``module``."""
    kinds = (type, staticmethod, classmethod, property)
    return [
        (name, member)
        for name, member in vars(owner).items()
        if not name.startswith("_")
        and (inspect.isfunction(member) or isinstance(member, kinds))
        and getattr(member, "__module__", module) == module
    ]


def list_undocumented(owner: object, module: str, path: str) -> list[str]:
    """Dotted names of the members of ``owner``, and of their members, that have no docstring.

    Args:
        owner: a module or class.
        module: the name of the module that is checked; what it imports is not.
        path: the dotted name of ``owner``.
    """
    missing = [] if owner.__doc__ else [path]
    for name, member in own_members(owner, module):
        if isinstance(member, type):
            missing += list_undocumented(member, module, f"{path}.{name}")
        # Through the owner, so that an override finds the docstring of what it overrides.
        elif not inspect.getdoc(getattr(owner, name)):
            missing.append(f"{path}.{name}")
    return missing


def main(packages: list[str]) -> int:
    """Prints what has no docstring; the exit status is 1 if there is any."""
    names = [name for package in packages for name in modules_of(importlib.import_module(package))]
    missing = [
        path for name in names for path in list_undocumented(importlib.import_module(name), name, name)
    ]
    print("\n".join([*(f"{path} has no docstring" for path in missing), f"{len(names)} modules checked"]))
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
