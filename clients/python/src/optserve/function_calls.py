"""Arguments and results of the functions that a server computes without a session."""

from __future__ import annotations

from typing import TypeAlias, TypeVar

from numpy.typing import ArrayLike

from optserve._codec import dtypes
from optserve._codec.dtypes import Array
from optserve.specs.activations import Activation
from optserve.specs.losses import Loss
from optserve.v1 import function_service_pb2 as wire
from optserve.v1 import tensor_pb2

T = TypeVar("T")

AnyLoss: TypeAlias = Loss | type[Loss] | str
"""A loss, or the class or name of one that needs no field."""
AnyActivation: TypeAlias = Activation | type[Activation] | str
"""An activation, or the class or name of one that needs no field."""


class LossValue:
    """The result of a loss.

    Args:
        message: the answer of the server.
    """

    def __init__(self, message: wire.ComputeLossResponse) -> None:
        self._value = message.value if message.HasField("value") else None
        self._gradient = dtypes.from_tensor(message.gradient) if message.HasField("gradient") else None
        self._per_example = (
            dtypes.from_tensor(message.per_example) if message.HasField("per_example") else None
        )

    @property
    def value(self) -> float:
        """The reduced loss; ValueError under LossReduction.NONE."""
        return _require_not_none(self._value, "the loss is not reduced")

    @property
    def gradient(self) -> Array:
        """Gradient with respect to the prediction, of its type and shape; ValueError if not requested."""
        return _require_not_none(self._gradient, "the gradient was not asked for")

    @property
    def per_example(self) -> Array:
        """The loss of each example; ValueError if not requested."""
        return _require_not_none(self._per_example, "the values per example were not asked for")

    def __repr__(self) -> str:
        return f"<LossValue {self._value}>"


def encode_tensor(value: ArrayLike, what: str) -> tensor_pb2.Tensor:
    """Encodes an argument of a function."""
    return dtypes.to_tensor(dtypes.as_array(value, dtypes.SUPPORTED, what))


def optional_tensor(value: ArrayLike | None, what: str) -> tensor_pb2.Tensor | None:
    """Encodes an argument that may be left out."""
    return None if value is None else encode_tensor(value, what)


def _require_not_none(value: T | None, otherwise: str) -> T:
    if value is None:
        raise ValueError(otherwise)
    return value
