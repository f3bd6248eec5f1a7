"""Memory for the steps of one session, where client and server are on one host."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping

import numpy as np

from optserve import errors
from optserve._codec.buffer_pool import Recycler
from optserve._codec.dtypes import Array
from optserve._codec.layout import Layout
from optserve._codec.parameters_header import Contents
from optserve._codec.payload import Payload
from optserve._codec.receive_buffers import Landing
from optserve._engine.pulling import pulled
from optserve._engine.shared_memory import SharedMemory
from optserve._transport.connection import Connection
from optserve._transport.retry import allowance
from optserve.parameters import Parameters, Pull
from optserve.v1 import session_service_pb2 as wire
from optserve.v1 import tensor_pb2

KEPT = 2
"""How many kinds of steps have memory at once: those with one set of tensors, types and pull."""

LOSSES = 3
"""How often a server may have forgotten memory before this client shares no more."""

_log = logging.getLogger("optserve")
_NOT_HERE = (
    errors.Reason.SHARED_MEMORY_UNAVAILABLE,
    errors.Reason.LIMIT_EXCEEDED,
    errors.Reason.QUOTA_EXCEEDED,
)

_Key = tuple[tuple[str, ...], int, bytes]


class Sharing:
    """The memory that the steps of one session share with the server.

    Where the server cannot share memory, or is on another host after all, the first attempt
    says so in the log, and steps are sent in chunks.

    Args:
        connection: to the server.
        name: of the session.
        layout: of the session.
        wanted: whether memory is to be shared; where the server seems to be on this host when None.
        in_place: whether parameters are read where they lie.

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
        self._recycler = Recycler()
        self._landing = Landing(self._recycler)
        self._losses = 0

    def memory(self, payload: Payload, pull: Pull | None) -> SharedMemory | None:
        """Memory for a gradient of these tensors and types, and for what is pulled after it.

        There must be no step under way that lies in memory. Rows are few bytes, and are sent.
        """
        if not self.on or payload.rows:
            return None
        message = None if pull is None else pull.message(self._layout)
        text = b"" if message is None else b"\1" + message.SerializeToString(deterministic=True)
        key = (tuple(payload.names), _data_type(payload), text)
        memory = self._memories.get(key) or self._shared(key, message)
        if memory is not None:
            self._memories[key] = memory
            self._memories.move_to_end(key)
        while len(self._memories) > KEPT:
            self._memories.popitem(last=False)[1].close()
        return memory

    def forget(self, memory: SharedMemory) -> None:
        """Drops memory that the server says it does not share."""
        memory.close()
        for key in [key for key, kept in self._memories.items() if kept is memory]:
            del self._memories[key]
        self._losses += 1
        if self._losses >= LOSSES:
            self._give_up("the server has forgotten what it shared")

    def read(
        self,
        memory: SharedMemory,
        pull: Pull,
        contents: Contents,
        step: int,
        change: int,
        into: Mapping[str, Array] | None,
    ) -> Parameters:
        """The values that an answer says are in memory.

        Args:
            memory: where.
            pull: what was asked for.
            contents: what the answer says of them.
            step: which they belong to.
            change: how many changes they are the outcome of, where the memory is live.
            into: the caller's arrays; new ones when None.

        Raises:
            OptserveError: another step came between, and they could not be pulled either.
        """
        values = self._values(memory, change, into)
        if values is not None:
            return Parameters(values, step=step, point=contents.point)
        request = wire.PullParametersRequest(name=self._name, pull=pull.message(self._layout))
        seconds = allowance(self._connection.timeout, pull.byte_count(self._layout))
        return self._connection.run(
            lambda left: pulled(self._connection, request, left, self._landing, into), seconds
        )

    def close(self) -> None:
        """Gives everything back."""
        while self._memories:
            self._memories.popitem()[1].close()

    def _values(
        self, memory: SharedMemory, change: int, into: Mapping[str, Array] | None
    ) -> Mapping[str, Array] | None:
        """The values in memory, or None where they are no longer those that were told of."""
        if into is None and self._in_place:
            return memory.parameters
        if into is None and memory.is_small:
            return memory.copied(change)
        targets = self._room(memory) if into is None else {name: into[name] for name in memory.parameters}
        return targets if memory.copy_to(targets, change) else None

    def _room(self, memory: SharedMemory) -> dict[str, Array]:
        """Arrays of the caller's own for the values, in memory that was used before where there is."""
        arrays, start = {}, 0
        buffer = self._recycler.take(sum(-(-a.nbytes // 64) * 64 for a in memory.parameters.values()))
        for name, array in memory.parameters.items():
            arrays[name] = np.ndarray(array.shape, array.dtype, buffer, start)
            start += -(-array.nbytes // 64) * 64
        return arrays

    def _shared(self, key: _Key, pull: wire.PullOptions | None) -> SharedMemory | None:
        names, data_type, _ = key
        request = wire.ShareMemoryRequest(
            name=self._name,
            tensors=names,
            gradient_dtype=tensor_pb2.DataType.ValueType(data_type),
            pull=pull,
        )
        try:
            response = self._connection.call(self._connection.sessions.ShareMemory, request)
            memory = SharedMemory(response)
        except (OSError, ValueError) as error:
            self._give_up(str(error))
        except errors.OptserveError as error:
            # Any other refusal is the step's as well, which the server then says once more.
            if isinstance(error, errors.Unimplemented) or error.reason in _NOT_HERE:
                self._give_up(str(error))
        else:
            self._connection.memories.add(memory)
            return memory
        return None

    def _give_up(self, why: str) -> None:
        self.on = self._connection.shares_memory = False
        _log.warning("no memory is shared with the server, so steps are sent: %s", why)


def _data_type(payload: Payload) -> int:
    """The element type that a gradient travels in; 0 where each tensor's is its own."""
    pairs = zip(payload.tensors, payload.arrays, strict=True)
    if all(array.dtype == tensor.dtype for tensor, array in pairs):
        return tensor_pb2.DATA_TYPE_UNSPECIFIED
    return payload.uniform().data_type
