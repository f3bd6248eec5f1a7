"""What equal steps of a stream have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from optserve import coercion
from optserve.chunks import CHUNK_BYTES
from optserve.dtypes import Array
from optserve.framing import VARINT, ChunkParts
from optserve.payload import Payload
from optserve.steps import REQUESTS, OneMessage, StepMessages
from optserve.v1 import session_service_pb2 as wire

SEQUENCE = bytes((wire.StepOptions.SEQUENCE_FIELD_NUMBER << 3 | VARINT,))
"""The tag of the sequence; it follows the worker, as fields are written in the order of their numbers."""


class Asked(NamedTuple):
    """What one step asks for."""

    expected_step: int | None
    loss_scale: float | None
    per_tensor_norms: bool

    def checked(self) -> Asked:
        """The same, converted from what a caller gave.

        Raises:
            TypeError: a value has the wrong type.
            ValueError: the expected step is negative or has a fraction.
        """
        step = coercion.optional(coercion.step, self.expected_step, "expected_step")
        scale = coercion.optional(coercion.number, self.loss_scale, "loss_scale")
        return Asked(step, scale, self.per_tensor_norms)


class Outline:
    """Made with one step, and used for those that follow with gradients of the same kind.

    Args:
        request: what begins the step; sequence and wishes are set for each.
        given: the gradients, as the caller gave them.
        payload: the same, aligned and uniform.
    """

    def __init__(self, request: wire.StepStreamRequest, given: Mapping[str, Any], payload: Payload) -> None:
        self._request = request
        self._payload = payload
        self._dtype = payload.values[0].dtype
        self._kinds = [(t.name, t.shape, np.asarray(given[t.name]).dtype) for t in payload.tensors]
        self._rooms: dict[str, Array] = {}

    def payload(self, gradients: Mapping[str, Any], copy: bool) -> Payload | None:
        """Gradients ready to be sent, or None where they are of another kind.

        Args:
            gradients: by tensor name.
            copy: whether they are copied. Otherwise they must stay as they are until they were
                sent. Of a step in several messages those of another type are converted while
                it is sent; all converted ones lie in memory that the next step uses again.
        """
        later: list[Array | None] | None = None if copy or self.is_small else []
        arrays = self.parts(gradients, copy, later)
        if arrays is None:
            return None
        known = self._payload
        return Payload(known.tensors, list(arrays), known.complete, sources=later or ())

    def parts(
        self, gradients: Mapping[str, Any], copy: bool = False, later: list[Array | None] | None = None
    ) -> Sequence[Any] | None:
        """The arrays of `payload`, which stand behind the head where the step is one message.

        Args:
            gradients: by tensor name.
            copy: whether they are copied.
            later: is given what is not converted now, for each array; None to convert it now.
        """
        if len(gradients) != len(self._kinds):
            return None
        arrays: list[Array] = []
        for name, shape, dtype in self._kinds:
            array = gradients.get(name)
            if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype != dtype:
                return None
            if copy:
                array = np.array(array, self._dtype, order="C")
            elif dtype != self._dtype or not array.flags.c_contiguous:
                waits = later is not None and array.flags.c_contiguous
                if later is not None:
                    later.append(array if waits else None)
                array = self._converted(name, array, not waits)
            elif later is not None:
                later.append(None)
            arrays.append(array)
        return arrays

    @property
    def is_small(self) -> bool:
        """Whether a step is one message."""
        return 0 < self._payload.byte_count <= CHUNK_BYTES

    def around(self, worker: str, sequence: int, asked: Asked) -> tuple[bytes, bytes] | None:
        """The head of one step and what opens its chunk, but for the first byte of the sequence.

        Returns:
            What stands before that byte, and what stands behind it; None where it is not found.
        """
        head = self.head(worker, sequence, asked)
        opening = REQUESTS.join(b"", ChunkParts(0, self._payload.byte_count, ()))
        return self._split(head + opening, worker)

    def messages(self, message: bytes) -> StepMessages:
        """A step by the one message that it was made of."""
        return OneMessage(message)

    def head(self, worker: str, sequence: int, asked: Asked) -> bytes:
        """The beginning of one step, encoded."""
        options = self._request.header.options
        options.worker, options.sequence = worker, sequence
        options.per_tensor_norms = asked.per_tensor_norms
        options.ClearField("expected_step")
        options.ClearField("loss_scale")
        if asked.expected_step is not None:
            options.expected_step = asked.expected_step
        if asked.loss_scale is not None:
            options.loss_scale = asked.loss_scale
        return self._request.SerializeToString()

    def _split(self, head: bytes, worker: str) -> tuple[bytes, bytes] | None:
        """What stands before the first byte of the sequence, which follows the worker, and behind it."""
        before, mark, behind = head.partition(worker.encode() + SEQUENCE)
        return (before + mark, behind[1:]) if mark else None

    def _converted(self, name: str, array: Array, now: bool) -> Array:
        room = self._rooms.get(name)
        if room is None:
            room = self._rooms[name] = np.empty(array.shape, self._dtype)
        if now:
            np.copyto(room, array, casting="unsafe")
        return room
