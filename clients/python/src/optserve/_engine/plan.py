"""Plans: the common part of a stream's steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from optserve import errors
from optserve._codec.byte_layout import ByteLayout
from optserve._codec.chunks import CHUNK_BYTES
from optserve._codec.dtypes import Array
from optserve._codec.framing import ChunkParts, Framing
from optserve._codec.layout import Layout
from optserve._codec.payload import Payload
from optserve._engine.shared_memory import SharedMemory
from optserve.parameters import Pull
from optserve.specs.enums import ParameterPoint
from optserve.v1 import session_service_pb2 as wire
from optserve.v1 import tensor_pb2

REQUESTS = Framing(wire.StepStreamRequest)


class PlanOptions(NamedTuple):
    """Options of a step that belong to its plan.

    Attributes:
        pull: the parameters that follow the result; None for none.
        wire_dtype: element type of gradients; None for what is given.
        per_tensor_norms: whether the result has each tensor's norm.
        validate_only: whether the step is only checked, and so belongs to no worker.
    """

    pull: Pull | None = None
    wire_dtype: DTypeLike | None = None
    per_tensor_norms: bool = False
    validate_only: bool = False


Collected = tuple[Sequence[Array], Sequence[Array | None]]
"""Gradients that are ready to be sent.

First row-major arrays in the order of their bytes; none if they are in shared memory. Then arrays
that are converted into those of the same place while they are sent; None for those that are not.
"""
_NO_DTYPE = np.dtype(object)
"""Stands for the type of what is not an array, which no gradient has."""
IN_MEMORY: Collected = ((), ())
"""Gradients that need not be sent."""


class Plan:
    """The plan of steps with gradients of the same tensors and element types.

    Args:
        name: of the session.
        layout: of the session.
        options: what the steps ask for.
        payload: the first step's gradients, aligned.
        given: the same as the caller gave them.
        region: the shared memory that gradients and parameters are in; None if they are sent.

    Attributes:
        options, region: as given.
        tensors: names of the tensors whose gradients are sent whole, and of those that are sparse.
        data_type: element type of the gradients; unspecified if each has its tensor's own.
        byte_count: of the whole gradients.
        request: a message that begins a step; reused, with other numbers, by those that ask for no more.
        start: the step in it.
        opening: what stands before the gradients if they are one chunk; empty if they are none or more.
        transfer_bytes: bytes that go and come with a step, about.
        point: which of the session's values are pulled.
        parameters: where the parameters are in an answer's bytes, when the server has said so.
    """

    def __init__(
        self,
        name: str,
        layout: Layout,
        options: PlanOptions,
        payload: Payload,
        given: Mapping[str, Any],
        region: SharedMemory | None,
    ) -> None:
        self.options, self.region = options, region
        self.tensors, self.data_type = plan_signature(layout, payload)
        self.byte_count = sum(array.nbytes for array in payload.arrays)
        announced = self.byte_count if region is None else 0
        self.request = wire.StepStreamRequest(step=wire.StepStart(byte_count=announced))
        self.start = self.request.step
        self.opening = b""
        if 0 < self.byte_count <= CHUNK_BYTES:
            self.opening = REQUESTS.append_chunk(b"", ChunkParts(0, self.byte_count, ()))
        pulled = 0 if options.pull is None else options.pull.byte_count(layout)
        self.transfer_bytes = self.byte_count + pulled
        self.parameters: ByteLayout | None = None
        self.point = (options.pull and options.pull.point) or ParameterPoint.PARAMETERS
        self._message = wire.StepPlan(session=name, per_tensor_norms=options.per_tensor_norms)
        if options.pull is not None:
            self._message.pull.CopyFrom(options.pull.message(layout))
        if region is not None:
            self._message.region = region.region
        else:
            self._message.tensors.extend(payload.header_names)
            self._message.sparse_tensors.extend(self.tensors[1])
            self._message.gradient_dtype = self.data_type
        self.record_types(payload, given)

    @property
    def is_usable(self) -> bool:
        """Whether the memory that it names, if any, is still shared."""
        return self.region is None or self.region.is_open

    def encode(self, worker: str, epoch: int = 0) -> bytes:
        """Returns the message that begins a stream of such steps, or goes between two steps.

        Args:
            worker: name of the worker.
            epoch: the epoch of its membership; 0 for none.
        """
        self._message.worker_epoch = epoch
        self._message.worker = "" if self.options.validate_only else worker
        return wire.StepStreamRequest(plan=self._message).SerializeToString()

    def accept_plan_response(self, planned: wire.StepPlanned) -> None:
        """Takes the server's answer.

        Raises:
            FailedPrecondition: the session's tensors are not those of this client's handle.
        """
        if self.region is None and planned.gradients.byte_count != self.byte_count:
            raise errors.FailedPrecondition(
                f"the session's gradients have {planned.gradients.byte_count} bytes, but this handle's"
                f" have {self.byte_count}: make a new handle of the session"
            )
        if planned.HasField("parameters"):
            self.parameters = ByteLayout(planned.parameters.tensors, planned.parameters.byte_count)

    def record_types(self, payload: Payload, given: Mapping[str, Any]) -> None:
        """Notes what gradients of this plan look like, so that `prepare_gradients` takes those that follow.

        Args:
            payload: a step's gradients, aligned.
            given: the same as the caller gave them.
        """
        types = [
            a.dtype if isinstance(a := given[t.name], np.ndarray) else _NO_DTYPE for t in payload.tensors
        ]
        self._kinds = [
            (tensor.name, tensor.shape, dtype, array.dtype)
            for tensor, dtype, array in zip(payload.tensors, types, payload.arrays, strict=True)
        ]
        self._converted: dict[str, Array] = {}

    def prepare_gradients(self, gradients: Mapping[str, Any], copy: bool) -> Collected | None:
        """Returns gradients ready to be sent, or None if they are of another kind.

        Args:
            gradients: by tensor name.
            copy: whether they are copied. Otherwise they must stay as they are until they were sent.
                Converted ones are in memory that the next step uses again.
        """
        if self.tensors[1] or len(gradients) != len(self._kinds):
            return None
        arrays: list[Array] = []
        plain = True
        for name, shape, given, sent in self._kinds:
            array = gradients.get(name)
            if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype != given:
                return None
            if given != sent or not array.flags.c_contiguous:
                plain = False
            arrays.append(array)
        if self.region is not None:
            return self.copy_to_shared_memory(arrays)
        if copy:
            pairs = zip(arrays, self._kinds, strict=True)
            return [np.array(array, sent, order="C") for array, (*_, sent) in pairs], ()
        return (arrays, ()) if plain else self._convert_dtypes(arrays)

    def copy_to_shared_memory(self, arrays: Sequence[Array]) -> Collected:
        """Copies arrays to their places in shared memory, unless they are there."""
        assert self.region is not None
        for (name, *_), array in zip(self._kinds, arrays, strict=True):
            place = self.region.gradients[name]
            if array is not place:
                np.copyto(place, array, casting="unsafe")
        return IN_MEMORY

    def _convert_dtypes(self, arrays: Sequence[Array]) -> Collected:
        """Arrays of the types that are sent; those of a step in several messages are converted later."""
        later = self.byte_count > CHUNK_BYTES
        targets: list[Array] = []
        sources: list[Array | None] = []
        for array, (name, shape, given, sent) in zip(arrays, self._kinds, strict=True):
            if given == sent and array.flags.c_contiguous:
                targets.append(array)
                sources.append(None)
                continue
            target = self._converted.get(name)
            if target is None:
                target = self._converted[name] = np.empty(shape, sent)
            waits = later and array.flags.c_contiguous
            if not waits:
                np.copyto(target, array, casting="unsafe")
            targets.append(target)
            sources.append(array if waits else None)
        return targets, sources if later else ()


Signature = tuple[tuple[tuple[str, ...], tuple[str, ...]], tensor_pb2.DataType.ValueType]


def plan_signature(layout: Layout, payload: Payload) -> Signature:
    """Returns names of whole and of sparse tensors, and the element type that a plan states of them."""
    names = tuple(tensor.name for tensor in payload.tensors), tuple(some.name for some in payload.rows)
    own = payload.matches_tensor_dtypes(layout)
    return names, tensor_pb2.DATA_TYPE_UNSPECIFIED if own else payload.data_type
