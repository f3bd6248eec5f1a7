"""Every schedule, loss and activation vector on the service's own functions, without a server."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from optserve_server import activations, losses, schedules
from optserve_server.losses.base import Reduction, reduce
from tests.conformance.comparator import judge
from tests.conformance.corpus import Case, cases
from tests.conformance.specs import resolve

each_dtype = pytest.mark.parametrize("dtype", [np.dtype(np.float32), np.dtype(np.float64)], ids=str)


def each(family: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in cases(family)])


@each("schedules")
def test_schedule(case: Case) -> None:
    schedule = resolve(schedules.REGISTRY, case.spec)
    answer = {"values": [schedule.rate(step) for step in case.inputs["steps"]]}
    judge(answer, case.expected, case.tolerance["float64"], np.float64, "schedules")


@each_dtype
@each("losses")
def test_loss(case: Case, dtype: np.dtype[Any]) -> None:
    loss = resolve(losses.REGISTRY, case.spec)
    reduction = Reduction[case.spec["reduction"].removeprefix("LOSS_REDUCTION_")]
    prediction = np.array(case.inputs["prediction"], dtype)
    target = np.array(case.inputs["target"])
    target = target.astype(dtype) if target.dtype.kind == "f" else target.astype(np.int64)
    given = case.inputs.get("sample_weight")
    weights = None if given is None else np.array(given, dtype)
    per_example = loss.per_example(prediction, target, weights)
    gradient = loss.gradient(prediction, target, reduction, weights)
    assert per_example.dtype == gradient.dtype == dtype
    assert gradient.shape == prediction.shape
    assert per_example.shape == np.shape(case.expected["per_example"])
    value = reduce(per_example, reduction, loss.total_weight(target, weights))
    answer = {"per_example": per_example, "gradient": gradient, **({} if value is None else {"value": value})}
    judge(answer, case.expected, case.tolerance[dtype.name], dtype, "losses")


@each_dtype
@each("activations")
def test_activation(case: Case, dtype: np.dtype[Any]) -> None:
    activation = resolve(activations.REGISTRY, case.spec)
    x = np.array(case.inputs["input"], dtype)
    output_gradient = np.array(case.inputs["output_gradient"], dtype)
    slope = np.array(case.inputs["slope"], dtype) if "slope" in case.inputs else None
    answer = {
        "output": activation.evaluate(x, slope),
        "input_gradient": activation.vjp(x, output_gradient, slope),
    }
    if slope is not None:
        answer["slope_gradient"] = activation.slope_gradient(x, output_gradient, slope)
    for name, part in answer.items():
        assert part.dtype == dtype
        assert part.shape == np.shape(case.expected[name])
    judge(answer, case.expected, case.tolerance[dtype.name], dtype, "activations")
