"""One line of a source's table: a request and two independent ways to its answer."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.conformance import inputs
from tests.conformance.corpus import EXACT
from tests.conformance.oracle import optimizers as oracle

Path = list[list[float]]
Runner = Callable[[Path, Sequence[float] | None], Path]
"""From gradients and learning rates (none: the framework's own) to the parameters after each step."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A case before it is computed.

    ``framework`` is None if the oracle itself is the source.
    """

    family: str
    file: str
    case: str
    source: str
    spec: Mapping[str, Any]
    inputs: Mapping[str, Any]
    oracle: Callable[[], Mapping[str, Any]]
    framework: Callable[[], Mapping[str, Any]] | None = None
    tolerance: Mapping[str, float] = dataclasses.field(default_factory=lambda: dict(EXACT))
    note: str = ""


def trajectory(
    file: str,
    case: str,
    source: str,
    spec: Mapping[str, Any],
    framework: Runner | None,
    scalar: Callable[..., list[float]],
    *,
    own_rate: float | None = None,
    whole: bool = False,
    note: str = "",
    **knobs: Any,
) -> Row:
    """A case of an optimizer over `inputs.STEPS` steps.

    Args:
        file: the optimizer's field in the oneof.
        case: name of the case.
        source: keras, torch, optax or lecture.
        spec: the optimizer's own message, and ``convention`` beside it.
        framework: runs the framework.
        scalar: the oracle's function for it.
        whole: whether that function takes the whole tensor at once.
        own_rate: the rate that the convention or the spec gives; the changing rates when None.
        note: what a reader should know.
        knobs: the oracle's hyperparameters.
    """
    gradients = inputs.gradient_steps()
    rates = None if own_rate is not None else inputs.LEARNING_RATES
    given: dict[str, Any] = {"parameters": inputs.PARAMETERS, "gradients": gradients}
    if rates is not None:
        given["learning_rates"] = rates
    used = inputs.LEARNING_RATES if own_rate is None else [own_rate] * len(gradients)

    def compute_expected() -> dict[str, Any]:
        if whole:
            return {"parameters": scalar(inputs.PARAMETERS, zip(gradients, used, strict=True), **knobs)}
        return {"parameters": by_step(scalar, used, knobs)}

    def run() -> dict[str, Any]:
        assert framework is not None
        return {"parameters": framework(gradients, rates)}

    return Row(
        "optimizers", file, case, source, spec, given, compute_expected, run if framework else None, note=note
    )


def by_step(scalar: Callable[..., list[float]], rates: Sequence[Any], knobs: Mapping[str, Any]) -> Path:
    """Runs a scalar oracle on each parameter and turns the result to one row a step."""
    gradients = inputs.gradient_steps()
    columns = [
        scalar(p, [(g[i], lr) for g, lr in zip(gradients, rates, strict=True)], **knobs)
        for i, p in enumerate(inputs.PARAMETERS)
    ]
    return [list(row) for row in zip(*columns, strict=True)]


def optimizer_spec(convention: str, name: str, **fields: Any) -> dict[str, Any]:
    """An OptimizerSpec in JSON."""
    return {"convention": f"CONVENTION_{convention}", name: fields}


def underscore(fields: Mapping[str, float]) -> dict[str, float]:
    """Fields as arguments of Keras and Flower, which spell beta1 as beta_1 and epsilon1 as epsilon_1."""
    return {re.sub(r"(beta|epsilon)(\d)", r"\1_\2", name): value for name, value in fields.items()}


__all__ = ["Path", "Row", "Runner", "by_step", "optimizer_spec", "oracle", "trajectory", "underscore"]
