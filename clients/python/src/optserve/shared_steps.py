"""Steps whose gradient lies in shared memory, in place of those that carry it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from optserve.dtypes import Array
from optserve.outline import Asked, Outline
from optserve.payload import Payload
from optserve.shared_memory import SharedMemory
from optserve.steps import StepMessages
from optserve.v1 import session_service_pb2 as wire


class SharedOutline(Outline):
    """What equal steps in one memory have in common; see `Outline` for the other arguments.

    Args:
        memory: where the gradients go.
    """

    def __init__(
        self,
        request: wire.StepStreamRequest,
        given: Mapping[str, Any],
        payload: Payload,
        memory: SharedMemory,
    ) -> None:
        super().__init__(request, given, payload)
        request.header.region = memory.region
        request.header.ClearField("tensors")
        request.header.ClearField("gradient_dtype")
        self.memory = memory
        self._places = [(name, shape, dtype, memory.gradients[name]) for name, shape, dtype in self._kinds]
        self._lying = replace(payload, arrays=[place for *_, place in self._places])

    def payload(self, gradients: Mapping[str, Any], copy: bool) -> Payload | None:
        """Gradients copied to their places, but for those that are there; see `Outline.payload`."""
        if len(gradients) != len(self._places):
            return None
        moving: list[tuple[Array, Array]] = []
        for name, shape, dtype, place in self._places:
            array = gradients.get(name)
            if array is place:
                continue
            if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype != dtype:
                return None
            moving.append((place, array))
        for place, array in moving:
            np.copyto(place, array, casting="unsafe")
        return self._lying

    def placed(self, payload: Payload) -> Payload:
        """Gradients that were aligned already, copied to their places."""
        for array, place in zip(payload.arrays, self._lying.arrays, strict=True):
            if array is not place:
                np.copyto(place, array, casting="unsafe")
        return self._lying

    def parts(
        self, gradients: Mapping[str, Any], copy: bool = False, later: list[Array | None] | None = None
    ) -> Sequence[Any] | None:
        """Nothing stands behind the head; see `Outline.parts`."""
        return None if self.payload(gradients, copy) is None else ()

    @property
    def is_small(self) -> bool:
        """Always: the gradient is not in the message."""
        return True

    def around(self, worker: str, sequence: int, asked: Asked) -> tuple[bytes, bytes] | None:
        """The head of one step but for the first byte of the sequence; see `Outline.around`.

        The gradient's number tells it from another one that has the same sequence, so gradients
        of different sequences may have the same.
        """
        return self._split(self.head(worker, sequence, asked), worker)

    def messages(self, message: bytes) -> StepMessages:
        """A step by its head, its gradient lying where the last one does."""
        return SharedMessages(message, self._lying, self.memory)

    def head(self, worker: str, sequence: int, asked: Asked) -> bytes:
        """The beginning of one step, encoded; it is all that is sent."""
        # All have the same length on the wire, so that a server knows the messages of a loop again.
        self._request.header.gradient_id = secrets.randbits(62) | 1 << 62
        return super().head(worker, sequence, asked)


class SharedMessages(StepMessages):
    """The message of a step whose gradient lies in memory.

    Args:
        head: a request with the step's header, encoded.
        payload: the gradient where it lies; nobody writes to it before the step is answered.
        memory: where.
    """

    def __init__(self, head: bytes, payload: Payload, memory: SharedMemory) -> None:
        super().__init__(head, payload)
        self.memory = memory

    def pieces(self) -> Iterator[Sequence[Any]]:
        """The message, which has no gradient."""
        yield (self._head,)

    def keep(self) -> None:
        """Nothing to do: the memory is not the caller's."""

    def in_chunks(self) -> StepMessages:
        """The same step, its gradient sent."""
        request = wire.StepStreamRequest.FromString(self._head)
        payload = self._payload.uniform()
        request.header.ClearField("region")
        request.header.tensors.extend(payload.names)
        request.header.gradient_dtype = payload.data_type
        return StepMessages(request.SerializeToString(), payload.copied())
