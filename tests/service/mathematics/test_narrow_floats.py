"""float16 and bfloat16 of every loss and activation: computed in float32, rounded once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from optserve_server import activations, losses
from optserve_server.arrays.narrow_floats import BFLOAT16, FLOAT16, round_to
from optserve_server.arrays.numpy_blocked import NumpyBackend
from optserve_server.errors import DomainError, Reason
from optserve_server.hyperparameters import Convention
from optserve_server.losses.base import Reduction
from optserve_server.wire.specifications.specs import algorithm_from, reduction_from
from tests.conformance import corpus
from tests.conformance.messages import parse
from tests.conformance.tasks import Task

NARROW = [FLOAT16, BFLOAT16]
BACKEND = NumpyBackend(threads=1)


def first_cases(family: str) -> dict[str, corpus.Case]:
    return {file.name: file.cases[0] for file in corpus.load_family(family)}


LOSSES, ACTIVATIONS = first_cases("losses"), first_cases("activations")


def narrow(array: Any, dtype: np.dtype[Any]) -> Any:
    return array if array.dtype.kind in "iu" else array.astype(dtype)


def wide(array: Any) -> Any:
    return array if array.dtype.kind in "iu" else array.astype(np.float32)


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("name", losses.REGISTRY)
def test_losses_are_those_of_float32_rounded_once(name: str, dtype: np.dtype[Any]) -> None:
    case = LOSSES[name]
    task = Task("losses", name, case, np.dtype(np.float64))
    message: Any = parse("losses", case)
    given = {part: narrow(task.array(part), dtype) for part in case.inputs}
    loss, reduction = algorithm_from(message).algorithm, reduction_from(message)
    found = loss.compute(**given, reduction=reduction, with_gradient=True, backend=BACKEND)
    plain = {part: wide(array) for part, array in given.items()}
    exact = loss.compute(**plain, reduction=reduction, with_gradient=True, backend=BACKEND)
    assert (found.per_example.dtype, found.gradient.dtype) == (dtype, dtype)
    assert found.value == exact.value
    assert np.array_equal(found.per_example, round_to(exact.per_example, dtype))
    assert np.array_equal(found.gradient, round_to(exact.gradient, dtype))


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("name", activations.REGISTRY)
def test_activations_are_those_of_float32_rounded_once(name: str, dtype: np.dtype[Any]) -> None:
    case = ACTIVATIONS[name]
    task = Task("activations", name, case, np.dtype(np.float64))
    activation = algorithm_from(parse("activations", case)).algorithm
    x, dy = (task.array(part).astype(dtype) for part in ("input", "output_gradient"))
    slope = [task.array("slope").astype(dtype)] if activation.takes_slope else []
    for call, arrays in ((activation.evaluate, (x,)), (activation.vjp, (x, dy))):
        found = call(*arrays, *slope)
        exact = call(*map(wide, arrays), *map(wide, slope))
        assert found.dtype == dtype
        with np.errstate(over="ignore"):
            assert np.array_equal(found, exact.astype(dtype), equal_nan=True)
    if slope:
        exact = activation.slope_gradient(wide(x), wide(dy), wide(slope[0]))
        found = activation.slope_gradient(x, dy, slope[0])
        assert np.array_equal(found, exact.astype(dtype))


def test_mixed_types_are_refused() -> None:
    loss, p = losses.REGISTRY["mean_squared_error"].resolve({}, Convention.KERAS), np.ones((2, 3), FLOAT16)
    for field in ("target", "sample_weight"):
        given = {"target": p, "sample_weight": p, field: p.astype(BFLOAT16)}
        with pytest.raises(DomainError) as caught:
            loss.compute(p, reduction=Reduction.SUM, with_gradient=True, backend=BACKEND, **given)
        assert (caught.value.reason, caught.value.field) == (Reason.DTYPE_MISMATCH, field)
    softmax = activations.REGISTRY["softmax"]()
    with pytest.raises(DomainError) as caught:
        softmax.vjp(p, p.astype(BFLOAT16))
    assert (caught.value.reason, caught.value.field) == (Reason.DTYPE_MISMATCH, "output_gradient")
