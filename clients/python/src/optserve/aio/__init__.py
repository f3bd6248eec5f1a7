"""Client for asyncio: the names of `optserve`, with methods to be awaited.

`connect` returns an `AsyncClient`, which creates `AsyncSessionHandle`s. Specifications, results and errors
are those of `optserve`. A client belongs to the event loop that was running when it was made.
"""

from optserve.aio.client import AsyncClient, connect
from optserve.aio.session import AsyncSessionHandle
from optserve.aio.snapshots import AsyncSnapshots
from optserve.aio.step_engine import AsyncPendingStep
from optserve.aio.stream import AsyncStepStream
from optserve.aio.workers import AsyncMember

__all__ = [
    "AsyncClient",
    "AsyncMember",
    "AsyncPendingStep",
    "AsyncSessionHandle",
    "AsyncSnapshots",
    "AsyncStepStream",
    "connect",
]
