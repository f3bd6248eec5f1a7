"""Modules of the client's extras, which may not be installed."""

from __future__ import annotations

import importlib
from types import ModuleType


def import_extra(module: str, extra: str, *needs: str) -> ModuleType:
    """Imports a module that needs packages of an extra.

    Args:
        module: its name.
        extra: of the client's distribution.
        needs: packages of the extra that the module imports; its own when there are none.

    Raises:
        ImportError: one of them is missing; the message names the extra.
    """
    packages = needs or (module.split(".")[0],)
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in packages:
            raise
        raise ImportError(f"this needs {packages[0]}: pip install 'optserve[{extra}]'") from error
