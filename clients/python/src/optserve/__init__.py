"""Client of optserve, optimizer steps as a service.

`connect` returns a `Client`, which creates `SessionHandle`s. Specifications are in
`optserve.optimizers`, `optserve.schedules`, `optserve.losses`, `optserve.activations`,
`optserve.initializers` and `optserve.layers`; the other parts of a session's specification, and the enums,
are here. `optserve.aio` is the same client for asyncio.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from optserve import event_engine  # noqa: F401  # loads gRPC, before others do

if TYPE_CHECKING:
    from optserve import aio as aio
    from optserve._public_api import *  # noqa: F403  # __all__ is there
    from optserve._public_api import __version__ as __version__


def __getattr__(name: str) -> object:
    """Loads a module, or the client when one of its names is first used: the server needs neither."""
    if find_spec(f"optserve.{name}") is not None:
        return import_module(f"optserve.{name}")
    public = vars(import_module("optserve._public_api"))
    if name not in public:
        raise AttributeError(f"module 'optserve' has no attribute {name!r}")
    globals()[name] = value = public[name]
    return value


def __dir__() -> list[str]:
    return __getattr__("__all__")  # type: ignore[return-value]
