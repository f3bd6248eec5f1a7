"""Curves of losses and their derivatives, as the server computes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from optserve.client import Client
from optserve.plotting.plot_items import Item
from optserve.plotting.spec_parser import WrongItem
from optserve.specs.enums import LossReduction
from optserve.specs.losses import Loss


@dataclass(frozen=True)
class LossCurve:
    """A loss over a range of predictions.

    Attributes:
        label: the name in the picture.
        predictions: float64, [n].
        values: float64, the loss of each prediction.
        derivatives: float64, dloss/dprediction.
    """

    label: str
    predictions: NDArray[np.float64]
    values: NDArray[np.float64]
    derivatives: NDArray[np.float64]


def loss_curves(
    client: Client, items: Sequence[Item[Loss]], predictions: NDArray[np.float64], target: float
) -> list[LossCurve]:
    """Each loss over the predictions for one target, each prediction an example of one element.

    Args:
        client: of the server that computes.
        items: the losses.
        predictions: [n].
        target: of every prediction.

    Raises:
        WrongItem: a loss compares classes along an axis.
        InvalidArgument: a loss is wrong, or takes more than one number.
        OptserveError: the server rejected the call otherwise, or could not be reached.
    """
    return [_compute_curve(client, item, predictions, target) for item in items]


def _compute_curve(
    client: Client, item: Item[Loss], predictions: NDArray[np.float64], target: float
) -> LossCurve:
    if "categorical" in item.spec.FIELD or item.spec.FIELD == "cosine_similarity":
        raise WrongItem(
            f"{item.label} compares numbers along an axis, so it has no curve over one prediction"
        )
    spec = dataclasses.replace(cast(Any, item.spec), reduction=LossReduction.SUM)
    column = predictions[:, None]
    result = client.loss(spec, column, np.full_like(column, target), per_example=True)
    return LossCurve(item.label, predictions, np.ravel(result.per_example), np.ravel(result.gradient))
