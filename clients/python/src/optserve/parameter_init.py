"""Initial values of parameters: arrays, or initializers of the server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from numpy.typing import ArrayLike, DTypeLike

from optserve import coercion, spec
from optserve._codec import dtypes
from optserve._codec.dtypes import Array
from optserve.specs.initializers import Initializer
from optserve.v1 import session_service_pb2 as wire


@dataclass(frozen=True)
class Initialized:
    """A parameter whose initial value the server computes.

    Attributes:
        shape: outermost dimension first; a single number for one dimension.
        dtype: float32 or float64.
        initializer: how it is computed; the name of an initializer selects it with its defaults.
    """

    shape: Sequence[int]
    dtype: DTypeLike
    initializer: Initializer

    def __post_init__(self) -> None:
        shape = coercion.to_tuple(self.shape, "Initialized.shape", coercion.to_int)
        initializer = Initializer.of(self.initializer, "Initialized.initializer")
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "initializer", initializer)


def to_parameter_array(name: str, value: ArrayLike) -> Array:
    """Converts the initial value of a parameter.

    Raises:
        TypeError: it is neither float32 nor float64.
    """
    return dtypes.as_array(value, dtypes.PARAMETER_DTYPES, f"parameter {name!r}")


def encode_parameter(name: str, value: ArrayLike | Initialized, upload: bool) -> wire.ParameterInit:
    """Encodes one parameter; with ``upload`` its values are sent later."""
    if isinstance(value, Initialized):
        dtype = dtypes.check_dtype(value.dtype, dtypes.PARAMETER_DTYPES, f"parameter {name!r}")
        filled = wire.InitializedTensor(
            dtype=dtypes.TYPES[dtype], shape=value.shape, spec=spec.encode_spec(value.initializer)
        )
        return wire.ParameterInit(name=name, initializer=filled)
    array = to_parameter_array(name, value)
    if upload:
        shape = wire.TensorShape(dtype=dtypes.TYPES[array.dtype], shape=array.shape)
        return wire.ParameterInit(name=name, upload=shape)
    return wire.ParameterInit(name=name, value=dtypes.to_tensor(array))
