"""Parameters of a session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from numpy.typing import DTypeLike

from optserve import coercion
from optserve._codec import dtypes
from optserve._codec.dtypes import Array
from optserve._codec.layout import Layout
from optserve.specs.enums import ParameterPoint
from optserve.v1 import session_pb2
from optserve.v1 import session_service_pb2 as wire


class Parameters(dict[str, Array]):
    """Arrays by tensor name, in the element type in which they were sent.

    Args:
        arrays: the values; empty if none were requested or none are newer.
        step: the step to which they belong.
        point: which of the session's values they are; None if none were requested.
        modified: False if they are not newer than the requested step.
    """

    __slots__ = ("modified", "point", "step")

    def __init__(
        self,
        arrays: Mapping[str, Array] | None = None,
        *,
        step: int = 0,
        point: ParameterPoint | None = None,
        modified: bool = True,
    ) -> None:
        super().__init__(arrays or {})
        self.step = step
        self.point = point
        self.modified = modified


@dataclass(frozen=True, kw_only=True)
class Pull:
    """Which parameters to return, and in which type.

    Attributes:
        tensors: their names, or a single one; all when None.
        point: which value, or its name, as ``"average"``; the parameters themselves when None.
        wire_dtype: float16, bfloat16, float32 or float64; each tensor's own when None.
    """

    tensors: Sequence[str] | None = None
    point: ParameterPoint | None = None
    wire_dtype: DTypeLike | None = None

    def __post_init__(self) -> None:
        if self.tensors is not None:
            object.__setattr__(self, "tensors", coercion.to_strings(self.tensors, "tensors"))
        if self.point is not None:
            object.__setattr__(self, "point", coercion.to_enum_member(ParameterPoint, self.point, "point"))

    def message(self, layout: Layout) -> wire.PullOptions:
        """The options on the wire.

        Raises:
            InvalidArgument: a tensor is unknown or named twice.
            TypeError: the wire type is not one of the four.
        """
        options = wire.PullOptions()
        if self.tensors is not None:
            options.tensors.extend(tensor.name for tensor in layout.select(self.tensors))
        if self.point is not None:
            options.point = session_pb2.ParameterPoint.ValueType(self.point)
        if self.wire_dtype is not None:
            options.wire_dtype = dtypes.TYPES[
                dtypes.check_dtype(self.wire_dtype, dtypes.WIRE_DTYPES, "wire_dtype")
            ]
        return options

    def byte_count(self, layout: Layout) -> int:
        """Estimated number of bytes: half precision is counted as the tensors' own type."""
        if self.tensors is None:
            return layout.byte_count
        return sum(tensor.byte_count for tensor in layout.select(self.tensors))


Pulling = bool | Pull | ParameterPoint | DTypeLike | None
"""Values of ``pull=``: False or True, a point or its name, an element type, or a `Pull`."""


def as_pull(pulling: Pulling, wire_dtype: DTypeLike | None = None) -> Pull | None:
    """Converts an argument ``pull``; None for no parameters.

    Args:
        pulling: the argument.
        wire_dtype: the element type if the argument has none.

    Raises:
        TypeError: it is none of these.
    """
    if pulling is None or pulling is False:
        return None
    if isinstance(pulling, Pull):
        return pulling
    if pulling is True:
        return Pull(wire_dtype=wire_dtype)
    if isinstance(pulling, str) and pulling.upper() in ParameterPoint.__members__:
        pulling = ParameterPoint[pulling.upper()]
    if isinstance(pulling, ParameterPoint):
        return Pull(point=pulling, wire_dtype=wire_dtype)
    try:
        dtypes.check_dtype(pulling, dtypes.WIRE_DTYPES, "pull")
    except TypeError:
        types = ", ".join(dtype.name for dtype in dtypes.WIRE_DTYPES)
        points = ", ".join(ParameterPoint.__members__)
        allowed = f"True, False, a Pull, a point ({points}) or an element type ({types})"
        raise TypeError(coercion.error_text("pull", pulling, allowed)) from None
    return Pull(wire_dtype=pulling)
