"""Losses.

Written by tools/generate_specs.py from optserve/v1/loss_spec.proto; change it there.
"""

from __future__ import annotations

from dataclasses import dataclass

from optserve.enums import Convention, LossReduction
from optserve.spec import Choice
from optserve.v1 import loss_spec_pb2


@dataclass(frozen=True, kw_only=True)
class Loss(Choice, message=loss_spec_pb2.LossSpec, oneof="loss"):
    """A loss function.

    Attributes:
        convention: Whose defaults fill the unset fields.
        reduction: How the per-example losses become one value.
    """

    convention: Convention | None = None
    reduction: LossReduction | None = None


@dataclass(frozen=True)
class MeanSquaredError(Loss, field="mean_squared_error"):
    """Mean squared error over the last axis."""


@dataclass(frozen=True, kw_only=True)
class CategoricalCrossentropy(Loss, field="categorical_crossentropy"):
    """Categorical cross-entropy.

    Probabilities are renormalised along the axis and clipped to [1e-7, 1 - 1e-7]; logits go through
    log-sum-exp.

    Attributes:
        from_logits: Whether predictions are logits rather than probabilities.
        label_smoothing: Share e of the target spread evenly: y*(1 - e) + e/classes.
        axis: The class axis; negative counts from the end.
    """

    from_logits: bool | None = None
    label_smoothing: float | None = None
    axis: int | None = None


@dataclass(frozen=True, kw_only=True)
class SparseCategoricalCrossentropy(Loss, field="sparse_categorical_crossentropy"):
    """Categorical cross-entropy whose targets are class indices.

    Attributes:
        from_logits: Whether predictions are logits rather than probabilities.
        axis: The class axis; negative counts from the end.
    """

    from_logits: bool | None = None
    axis: int | None = None
