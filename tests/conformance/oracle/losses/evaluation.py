"""Value, values per example and gradient of a loss, from a function of one example."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tests.conformance.oracle.lines import blocks, flatten, nest, shape_of, without

Line = Callable[[Sequence[float], Any], tuple[float, list[float]]]
"""From one example's predictions and target to its loss and its gradient."""


def evaluate(
    line: Line,
    prediction: Any,
    target: Any,
    *,
    axes: tuple[int, ...],
    reduction: str,
    sample_weight: Any = None,
    index_weights: Sequence[float] = (),
    ignored: int | None = None,
) -> dict[str, Any]:
    """Value, values per example and gradient of a loss of examples along ``axes``.

    Targets are as many as predictions, one for each example, as many for each, or none.
    ``index_weights`` are what indices of classes add to the sum of the weights. Examples
    whose target is ``ignored`` count as 0 and in no mean. As many weights as predictions
    are those of elements, of losses that are a mean of elements.
    """
    shape = shape_of(prediction)
    flat, wanted = flatten(prediction), flatten(target)
    examples = blocks(shape, axes)
    per_example, gradient, weights = [0.0] * len(examples), [0.0] * len(flat), [0.0] * len(examples)
    given = [1.0] * len(examples) if sample_weight is None else flatten(sample_weight)
    by_element = len(given) == len(flat) != len(examples)
    for i, places in enumerate(examples):
        own = targets_of(i, places, wanted, len(flat), len(examples))
        if ignored is not None and own == ignored:
            continue
        if by_element:
            weights[i] = math.fsum(given[k] for k in places) / len(places)
            loss, slopes = weigh_elements(line, [flat[k] for k in places], own, [given[k] for k in places])
        else:
            weights[i] = given[i] * (index_weights[own] if index_weights else 1.0)
            loss, slopes = line([flat[k] for k in places], own)
            loss, slopes = given[i] * loss, [given[i] * slope for slope in slopes]
        per_example[i] = loss
        for k, slope in zip(places, slopes, strict=True):
            gradient[k] = slope
    counted = len(examples) if ignored is None else sum(index != ignored for index in wanted)
    share = 1 / divisor(reduction, weights, counted)
    result = {
        "per_example": nest(per_example, without(shape, *axes)),
        "gradient": nest([slope * share for slope in gradient], shape),
    }
    return result if reduction == "NONE" else {"value": math.fsum(per_example) * share, **result}


def targets_of(i: int, places: Sequence[int], wanted: Sequence[Any], elements: int, examples: int) -> Any:
    """The target of example i: a list, a number, or None."""
    if len(wanted) == elements:
        return [wanted[k] for k in places]
    if not wanted:
        return None
    each = len(wanted) // examples
    return wanted[i] if len(wanted) == examples else list(wanted[i * each : (i + 1) * each])


def weigh_elements(
    line: Line, predictions: Sequence[float], target: Any, weights: Sequence[float]
) -> tuple[float, list[float]]:
    """The weighted mean of a loss of single elements, divided by their number."""
    n = len(predictions)
    found = [line([p], [y]) for p, y in zip(predictions, target, strict=True)]
    loss = math.fsum(w * value for w, (value, _) in zip(weights, found, strict=True)) / n
    return loss, [w * slopes[0] / n for w, (_, slopes) in zip(weights, found, strict=True)]


def divisor(reduction: str, weights: Sequence[float], examples: int) -> float:
    if reduction == "MEAN_WITH_SAMPLE_WEIGHT":
        return math.fsum(weights)
    return float(examples) if reduction in ("SUM_OVER_BATCH_SIZE", "MEAN") else 1.0
