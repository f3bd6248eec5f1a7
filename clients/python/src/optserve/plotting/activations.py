"""Curves of activations and their derivatives, as the server computes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from optserve._codec.dtypes import Array
from optserve.client import Client
from optserve.errors import InvalidArgument, Reason
from optserve.plotting.plot_items import Item
from optserve.specs.activations import Activation
from optserve.specs.base import list_required


@dataclass(frozen=True)
class ActivationCurve:
    """An activation over a range of inputs.

    Attributes:
        label: what it is called in the picture.
        x: float64, the inputs.
        y: float64, its values.
        derivative: float64, dy/dx.
    """

    label: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    derivative: NDArray[np.float64]


def list_elementwise(client: Client) -> list[Item[Activation]]:
    """Every activation that both sides know, treats each element alone, and needs no field."""
    served = client.capabilities().algorithms["activations"]
    return [
        Item(name, cast(Activation, cls()))
        for name, cls in Activation.CHOICES.items()
        if name in served and not _works_along_an_axis(cls) and not list_required(cls)
    ]


def activation_curves(
    client: Client, items: Sequence[Item[Activation]], x: NDArray[np.float64], slope: float
) -> list[ActivationCurve]:
    """Each activation at ``x``, with its derivative there.

    The derivative is the vector-Jacobian product with ones. What works along an axis, such as
    softmax, is drawn as its first output for the input (x, 0, ...), over the first input.

    Args:
        client: of the server that computes.
        items: the activations.
        x: inputs, [n].
        slope: of activations that take one beside their input.

    Raises:
        InvalidArgument: an activation is wrong.
        OptserveError: the server refused otherwise, or could not be reached.
    """
    return [_compute_curve(client, item, x, slope) for item in items]


def _compute_curve(
    client: Client, item: Item[Activation], x: NDArray[np.float64], slope: float
) -> ActivationCurve:
    spec, inputs, label = item.spec, x, item.label
    if _works_along_an_axis(type(spec)):
        width = max(2, getattr(spec, "group_size", 2))
        inputs = np.pad(x[:, None], ((0, 0), (0, width - 1)))
        spec = dataclasses.replace(cast(Any, spec), axis=-1)
        label = f"{label}, at ({', '.join(['x'] + ['0'] * (width - 1))})"
    y, dx = _value_and_derivative(client, spec, inputs, slope)
    if inputs.ndim == 2:
        y, dx = y[:, 0], dx[:, 0]
    return ActivationCurve(label, x, y, dx)


def _value_and_derivative(
    client: Client, spec: Activation, x: NDArray[np.float64], slope: float
) -> tuple[Array, Array]:
    """Both, with a slope where the server asks for one."""
    try:
        y = client.activation(spec, x)
        return y, client.activation_gradient(spec, x, _output_gradient(y))
    except InvalidArgument as error:
        if error.reason is not Reason.FIELD_REQUIRED or error.field != "slope":
            raise
    y = client.activation(spec, x, slope=slope)
    return y, client.activation_gradient(spec, x, _output_gradient(y), slope=slope)[0]


def _output_gradient(y: Array) -> Array:
    """Ones for the outputs that are drawn: all, or the first column."""
    ones = np.ones_like(y)
    if y.ndim == 2:
        ones[:, 1:] = 0
    return ones


def _works_along_an_axis(cls: type) -> bool:
    return any(field.name == "axis" for field in dataclasses.fields(cast(Any, cls)))
