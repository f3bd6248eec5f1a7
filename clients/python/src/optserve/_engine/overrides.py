"""Hyperparameters that have other values for one step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from optserve.v1 import session_service_pb2 as wire

Overrides: TypeAlias = Mapping[str, float | Mapping[str, float]]
"""Values by name of the hyperparameter, for every group; or by group, and by name within it.

``{"learning_rate": 0.1, "encoder": {"learning_rate": 0.01}}``; the default group's name is empty.
"""


def encode_overrides(overrides: Overrides) -> list[wire.HyperparameterOverride]:
    """Returns the messages of overrides, in their order.

    Raises:
        TypeError: a value is not a number.
    """
    messages = []
    for name, value in overrides.items():
        if isinstance(value, Mapping):
            for inner, number in value.items():
                override = _encode_override(inner, number, f"overrides[{name!r}][{inner!r}]")
                override.group = name
                messages.append(override)
        else:
            messages.append(_encode_override(name, value, f"overrides[{name!r}]"))
    return messages


def _encode_override(name: str, value: object, field: str) -> wire.HyperparameterOverride:
    try:
        return wire.HyperparameterOverride(name=name, value=float(value))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise TypeError(f"{field} is {value!r}, but must be a number") from None
