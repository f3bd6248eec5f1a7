"""Rows of schedules, losses and activations, from any source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tests.conformance.corpus import EXACT
from tests.conformance.inputs import make_nested
from tests.conformance.oracle import activations
from tests.conformance.oracle.losses.evaluation import Line, evaluate
from tests.conformance.sources.row import Row

STEPS = [0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 14, 20, 21, 50, 100, 1000]

REDUCTIONS = {
    "SUM_OVER_BATCH_SIZE": "sum_over_batch_size",
    "SUM": "sum",
    "NONE": None,
    "MEAN": "mean",
    "MEAN_WITH_SAMPLE_WEIGHT": "mean_with_sample_weight",
}
"""The reductions with Keras' names for them."""


def schedule(
    file: str,
    case: str,
    source: str,
    convention: str,
    fields: Mapping[str, Any],
    framework: Callable[[int], float] | None,
    scalar: Callable[..., float],
    knobs: Mapping[str, Any],
    tolerance: Mapping[str, float] = EXACT,
    note: str = "",
) -> Row:
    """A schedule at the steps `STEPS`."""
    return Row(
        "schedules", file, case, source,
        {"convention": f"CONVENTION_{convention}", file: fields},
        {"steps": STEPS},
        lambda: {"values": [scalar(step, **knobs) for step in STEPS]},
        (lambda: {"values": [framework(step) for step in STEPS]}) if framework else None,
        tolerance, note,
    )  # fmt: skip


MATRIX = [[0.5, -1.25, 2.0, 0.75], [1.5, 0.25, -0.5, -2.0], [-0.75, 1.0, 0.125, 1.75]]
PROBABILITIES = [
    [0.125, 0.5, 0.25, 0.125],
    [0.0625, 0.1875, 0.5, 0.25],
    [0.75, 0.5, 0.25, 1.0],  # sums to 2.5: renormalised
]
SATURATED = [[0.0, 1.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]]
ONE_HOT = [[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0]]
SOFT = [[0.25, 0.5, 0.25, 0.0], [0.0, 0.125, 0.125, 0.75], [1.0, 0.0, 0.0, 0.0]]
CLASSES = [1, 3, 0]


WEIGHED_BY_INDEX = ("sparse_categorical_crossentropy", "nll")
"""Losses whose class weights are sample weights."""

IGNORED_INDEX = -100
"""PyTorch's default."""


def loss_inputs(file: str, data: str, axis: int = -1) -> dict[str, Any]:
    """Predictions and targets by the kind of data."""
    if data == "middle_axis":
        return middle_axis(file)
    by_kind = {"matrix": MATRIX, "logits": MATRIX, "probabilities": PROBABILITIES, "saturated": SATURATED}
    prediction: Any = by_kind[data]
    target: Any = CLASSES if file.startswith("sparse") else SOFT
    if file == "mean_squared_error":
        target = ONE_HOT
    if axis == 0:
        prediction = [list(column) for column in zip(*prediction, strict=True)]
        if not file.startswith("sparse"):
            target = [list(column) for column in zip(*target, strict=True)]
    return {"prediction": prediction, "target": target}


def middle_axis(file: str) -> dict[str, Any]:
    """Two blocks of three classes over two places, the classes along axis 1."""
    prediction = [[[0.25, 0.5], [0.5, 0.125], [0.25, 0.375]], [[0.75, 0.5], [0.5, 0.25], [0.25, 1.0]]]
    if file.startswith("sparse"):
        return {"prediction": prediction, "target": [[0, 2], [1, 0]]}
    target = [[[1.0, 0.0], [0.0, 0.5], [0.0, 0.5]], [[0.0, 1.0], [0.75, 0.0], [0.25, 0.0]]]
    return {"prediction": prediction, "target": target}


def loss(
    file: str,
    case: str,
    source: str,
    convention: str,
    reduction: str,
    fields: Mapping[str, Any],
    given: Mapping[str, Any],
    framework: Callable[[], Mapping[str, Any]] | None,
    line: Line,
    axis: int | tuple[int, ...] = -1,
    tolerance: Mapping[str, float] = EXACT,
    note: str = "",
) -> Row:
    """A loss with its gradient."""
    spec = {
        "convention": f"CONVENTION_{convention}",
        "reduction": f"LOSS_REDUCTION_{reduction}",
        file: fields,
    }

    def oracle() -> dict[str, Any]:
        by_index = file in WEIGHED_BY_INDEX
        weights = fields.get("class_weights", ()) if by_index else ()
        return evaluate(
            line, given["prediction"], given["target"], axes=axis if isinstance(axis, tuple) else (axis,),
            reduction=reduction, sample_weight=given.get("sample_weight"), index_weights=weights,
            ignored=fields.get("ignore_class", IGNORED_INDEX if by_index and convention == "TORCH" else None),
        )  # fmt: skip

    return Row("losses", file, case, source, spec, given, oracle, framework, tolerance, note)


def activation(
    file: str,
    case: str,
    source: str,
    convention: str,
    fields: Mapping[str, Any],
    framework: Callable[[Any, Any], tuple[Any, Any]] | None,
    scalar: activations.Scalar | None,
    axis: int = -1,
) -> Row:
    """An activation with its vector-Jacobian product; no scalar function means softmax."""
    x, output_gradient = make_nested((3, 6), seed=3, scale=4.0), make_nested((3, 6), seed=11)
    if file == "relu" or (file == "leaky_relu" and source == "torch"):
        x[1][2] = 0.0  # where it bends; JAX takes the leaky rectifier's other slope there

    def oracle() -> dict[str, Any]:
        if scalar is None:
            return activations.softmax(x, output_gradient, axis=axis)
        return activations.evaluate(scalar, x, output_gradient)

    def run() -> dict[str, Any]:
        assert framework is not None
        output, product = framework(x, output_gradient)
        return {"output": output, "input_gradient": product}

    spec = {"convention": f"CONVENTION_{convention}", file: fields}
    given = {"input": x, "output_gradient": output_gradient}
    return Row("activations", file, case, source, spec, given, oracle, run if framework else None)
