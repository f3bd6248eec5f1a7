"""Shared memory for the steps of one session, if client and server are on one host."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping

import grpc
import numpy as np

from optserve import errors
from optserve._codec.buffer_pool import BufferPool
from optserve._codec.dtypes import Array
from optserve._codec.layout import Layout
from optserve._codec.payload import Payload
from optserve._codec.receive_buffers import Into, ReceiveBuffers
from optserve._engine.parameter_transfers import make_pull
from optserve._engine.plan import plan_signature
from optserve._engine.shared_memory import SharedMemory
from optserve._transport.connection import Connection
from optserve.parameters import Parameters, Pull
from optserve.specs.enums import ParameterPoint
from optserve.v1 import session_service_pb2 as wire
from optserve.v1 import tensor_pb2

MAX_REGIONS = 2
"""How many kinds of steps have memory at once: those with one set of tensors, types and pull."""

MAX_LOSSES = 3
"""How often a server may have forgotten memory before this client shares no more."""

_log = logging.getLogger("optserve")
_UNAVAILABLE = (
    errors.Reason.SHARED_MEMORY_UNAVAILABLE,
    errors.Reason.LIMIT_EXCEEDED,
    errors.Reason.QUOTA_EXCEEDED,
)

_Key = tuple[tuple[str, ...], int, bytes]


class SharedRegions:
    """The memory that the steps of one session share with the server.

    If the server cannot share memory, or is on another host after all, the first attempt says so
    in the log, and steps are sent in chunks.

    Args:
        connection: to the server.
        name: of the session.
        layout: of the session.
        wanted: whether memory is to be shared; if the server seems to be on this host when None.
        in_place: whether results have views of the memory, and not copies.

    Attributes:
        on: whether steps are to lie in memory, as far as is known.
    """

    def __init__(
        self,
        connection: Connection,
        name: str,
        layout: Layout,
        wanted: bool | None = None,
        in_place: bool = False,
    ) -> None:
        self._connection, self._name, self._layout = connection, name, layout
        self.on = connection.shares_memory if wanted is None else wanted
        self._in_place = in_place
        self._memories: OrderedDict[_Key, SharedMemory] = OrderedDict()
        self._pool = BufferPool()
        self._buffers = ReceiveBuffers()
        self._losses = 0

    def find_or_request_region(
        self, payload: Payload, pull: Pull | None, timeout: float
    ) -> SharedMemory | None:
        """Returns memory for a gradient of these tensors and types, and for what is pulled after it.

        No step that lies in memory may be under way. Rows are few bytes, and are sent.

        Args:
            payload: the gradient.
            pull: what is pulled; None for nothing.
            timeout: seconds that a request for memory may take.
        """
        if not self.on or payload.rows:
            return None
        message = None if pull is None else pull.message(self._layout)
        text = b"" if message is None else b"\1" + message.SerializeToString(deterministic=True)
        names, data_type = plan_signature(self._layout, payload)
        key = (names[0], data_type, text)
        memory = self._memories.get(key) or self._request_shared_memory(key, message, timeout)
        if memory is not None:
            self._memories[key] = memory
            self._memories.move_to_end(key)
        while len(self._memories) > MAX_REGIONS:
            self._memories.popitem(last=False)[1].close()
        return memory

    def drop_region(self, memory: SharedMemory, *, lost: bool = True) -> None:
        """Drops memory.

        Args:
            memory: is not used again.
            lost: whether the server says that it does not share it.
        """
        memory.close()
        for key in [key for key, known in self._memories.items() if known is memory]:
            del self._memories[key]
        self._losses += lost
        if self._losses >= MAX_LOSSES:
            self._disable_sharing("the server has forgotten what it shared")

    def read_parameters(
        self, memory: SharedMemory, pull: Pull, step: int, change: int, into: Into
    ) -> Parameters:
        """Returns the parameters in memory after a step.

        Args:
            memory: the memory.
            pull: what was asked for.
            step: the step that the parameters belong to.
            change: how many changes they are the outcome of, if the memory is live.
            into: the caller's arrays; new ones when None.

        Raises:
            OptserveError: another step came between, and the parameters could not be pulled either.
        """
        values: Mapping[str, Array] | None
        if into is None and self._in_place:
            values = memory.parameters
        elif into is None and memory.is_small:
            values = memory.copy_parameters(change)
        else:
            targets = (
                {name: into[name] for name in memory.parameters}
                if into
                else self._allocate_result_arrays(memory)
            )
            values = targets if memory.copy_parameters_to(targets, change) else None
        if values is not None:
            return Parameters(values, step=step, point=pull.point or ParameterPoint.PARAMETERS)
        connection = self._connection
        pulled = make_pull(connection, self._name, self._layout, pull, into=into, buffers=self._buffers)
        return connection.download(pulled)

    def close(self) -> None:
        """Ends the use of all memory."""
        while self._memories:
            self._memories.popitem()[1].close()

    def _allocate_result_arrays(self, memory: SharedMemory) -> dict[str, Array]:
        """Arrays for the values, in a buffer of the pool."""
        arrays, start = {}, 0
        buffer = self._pool.take(sum(-(-a.nbytes // 64) * 64 for a in memory.parameters.values()))
        for name, array in memory.parameters.items():
            arrays[name] = np.ndarray(array.shape, array.dtype, buffer, start)
            start += -(-array.nbytes // 64) * 64
        return arrays

    def _request_shared_memory(
        self, key: _Key, pull: wire.PullOptions | None, timeout: float
    ) -> SharedMemory | None:
        """Asks for memory once; without an answer the step is sent, and is what is tried again."""
        names, data_type, _ = key
        request = wire.ShareMemoryRequest(
            name=self._name,
            tensors=() if len(names) == len(self._layout) else names,
            gradient_dtype=tensor_pb2.DataType.ValueType(data_type),
            pull=pull,
        )
        try:
            connection = self._connection
            share = connection.stubs.sessions.ShareMemory
            memory = SharedMemory(share(request, timeout=timeout, metadata=connection.metadata))
        except (OSError, ValueError) as failure:
            self._disable_sharing(str(failure))
        except grpc.RpcError as failure:
            error = errors.from_call(failure)
            # Any other error is the step's as well, which the server answers once more.
            if isinstance(error, errors.Unimplemented) or error.reason in _UNAVAILABLE:
                self._disable_sharing(str(error))
        else:
            return memory
        return None

    def _disable_sharing(self, why: str) -> None:
        self.on = self._connection.shares_memory = False
        _log.warning("no memory is shared with the server, so steps are sent: %s", why)
