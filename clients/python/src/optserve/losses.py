"""Losses.

Written by tools/generate_specs.py from optserve/v1/loss_spec.proto; change it there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass

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
    log-sum-exp. Where all logits along the axis are -infinity, value and gradient are NaN, as in PyTorch;
    so in every cross-entropy over classes.

    Attributes:
        from_logits: Whether predictions are logits rather than probabilities.
        label_smoothing: Share e of the target spread evenly: y*(1 - e) + e/classes.
        axis: The class axis; negative counts from the end.
        class_weights: Factors of the classes' terms, smoothing included, each at least 0; none means
            1.
    """

    from_logits: bool | None = None
    label_smoothing: float | None = None
    axis: int | None = None
    class_weights: Sequence[float] = ()


@dataclass(frozen=True, kw_only=True)
class SparseCategoricalCrossentropy(Loss, field="sparse_categorical_crossentropy"):
    """Categorical cross-entropy whose targets are class indices.

    Attributes:
        from_logits: Whether predictions are logits rather than probabilities.
        axis: The class axis; negative counts from the end.
        label_smoothing: Share e of the target spread evenly, as in CategoricalCrossentropySpec.
        class_weights: Factors of the classes' terms, smoothing included, each at least 0; none means
            1. They count as sample weights in LOSS_REDUCTION_MEAN_WITH_SAMPLE_WEIGHT.
    """

    from_logits: bool | None = None
    axis: int | None = None
    label_smoothing: float | None = None
    class_weights: Sequence[float] = ()


@dataclass(frozen=True)
class Custom(Loss, field="custom"):
    """A formula of the caller's own, of one element of prediction and target.

    The loss of an example is its mean over the last axis; under LOSS_REDUCTION_SUM and with one output,
    the loss is thus its sum over the batch. The server differentiates the formula itself, for the
    gradient.

    Attributes:
        expression: The formula, of at most 1024 characters. Required. Its variables are y_pred and
            y_true; numbers are written as in "99", "0.5" or "1e-7". It knows + - * / and parentheses;
            x**n and power(x, n) for whole numbers n from -16 to 16; abs, sqrt, exp, expm1, log, log1p,
            tanh and sign of one argument; maximum and minimum of two; and where(a < b, x, y), with < <= >
            >= == or !=. Where a formula bends, the gradient is that of the branch that where takes, half
            of each side where maximum or minimum have equal arguments, and 0 for abs at 0. Example:
            "where(y_pred > y_true, COST*(y_pred - y_true), PROFIT*(y_true - y_pred))".
        constants: Numbers that the formula may use by name, such as {"COST": 1, "PROFIT": 99}: at
            most 32, each finite, named in ASCII letters, digits and underscores.
    """

    expression: str
    _: KW_ONLY
    constants: Mapping[str, float] | None = None


@dataclass(frozen=True)
class MeanAbsoluteError(Loss, field="mean_absolute_error"):
    """Mean absolute error over the last axis.

    The slope at 0 is 0.
    """


@dataclass(frozen=True, kw_only=True)
class Huber(Loss, field="huber"):
    """Huber's loss, the mean over the last axis.

    With e = prediction - target: e^2/2 where |e| <= delta, otherwise delta*|e| - delta^2/2.

    Attributes:
        delta: Error at which the loss turns linear, greater than 0.
    """

    delta: float | None = None


@dataclass(frozen=True, kw_only=True)
class SmoothL1(Loss, field="smooth_l1"):
    """Smooth L1, the mean over the last axis.

    With e = prediction - target: e^2/(2*beta) where |e| < beta, otherwise |e| - beta/2.

    Attributes:
        beta: Error at which the loss turns linear, at least 0; 0 makes it the mean absolute error.
    """

    beta: float | None = None


@dataclass(frozen=True)
class LogCosh(Loss, field="log_cosh"):
    """log(cosh(prediction - target)), the mean over the last axis."""


@dataclass(frozen=True)
class MeanSquaredLogarithmicError(Loss, field="mean_squared_logarithmic_error"):
    """(log(1 + prediction) - log(1 + target))^2, the mean over the last axis.

    Numbers below 1e-7 count as 1e-7.
    """


@dataclass(frozen=True, kw_only=True)
class BinaryCrossentropy(Loss, field="binary_crossentropy"):
    """Binary cross-entropy, the mean over an axis: -y*log(p)*positive_weight - (1 - y)*log(1 - p).

    Probabilities are clipped to [1e-7, 1 - 1e-7]; logits go through log-sum-exp.

    Attributes:
        from_logits: Whether predictions are logits rather than probabilities.
        label_smoothing: Share e of the target spread evenly: y*(1 - e) + e/2.
        axis: The axis that the mean is taken over; negative counts from the end.
        positive_weight: Factor of the term of positive targets, at least 0. PyTorch's pos_weight.
    """

    from_logits: bool | None = None
    label_smoothing: float | None = None
    axis: int | None = None
    positive_weight: float | None = None


@dataclass(frozen=True, kw_only=True)
class BinaryFocalCrossentropy(Loss, field="binary_focal_crossentropy"):
    """Binary focal cross-entropy, the mean over an axis.

    binary cross-entropy times (1 - p_t)^gamma, where p_t = y*p + (1 - y)*(1 - p). Lin et al., 2017.

    Attributes:
        from_logits: Whether predictions are logits rather than probabilities.
        label_smoothing: Share e of the target spread evenly: y*(1 - e) + e/2.
        axis: The axis that the mean is taken over; negative counts from the end.
        gamma: Exponent, at least 0; 0 makes it binary cross-entropy.
        apply_class_balancing: Whether to multiply by y*alpha + (1 - y)*(1 - alpha).
        alpha: The share of positive targets when balancing.
    """

    from_logits: bool | None = None
    label_smoothing: float | None = None
    axis: int | None = None
    gamma: float | None = None
    apply_class_balancing: bool | None = None
    alpha: float | None = None


@dataclass(frozen=True, kw_only=True)
class CategoricalFocalCrossentropy(Loss, field="categorical_focal_crossentropy"):
    """Categorical focal cross-entropy.

    each class's term of categorical cross-entropy times alpha*(1 - q)^gamma.

    Attributes:
        from_logits: Whether predictions are logits rather than probabilities.
        label_smoothing: Share e of the target spread evenly: y*(1 - e) + e/classes.
        axis: The class axis; negative counts from the end.
        gamma: Exponent, at least 0.
        alpha: Factor of the whole loss.
        class_weights: Factors of the classes' terms beside alpha, each at least 0; none means 1. A
            list of alphas in Keras is this with alpha 1.
    """

    from_logits: bool | None = None
    label_smoothing: float | None = None
    axis: int | None = None
    gamma: float | None = None
    alpha: float | None = None
    class_weights: Sequence[float] = ()


@dataclass(frozen=True, kw_only=True)
class KlDivergence(Loss, field="kl_divergence"):
    """Kullback-Leibler divergence, the sum over the last axis of y*(log(y) - log(p)).

    Targets and predictions are clipped to [1e-7, 1].

    Attributes:
        log_prediction: Whether predictions are logarithms of probabilities, as in PyTorch and optax;
            then nothing is clipped.
    """

    log_prediction: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Poisson(Loss, field="poisson"):
    """Negative log-likelihood of counts, the mean over the last axis of p - y*log(p + epsilon).

    Attributes:
        log_prediction: Whether predictions are logarithms of rates, as in PyTorch: exp(p) - y*p.
        epsilon: What is added to a rate, at least 0.
        full: Whether to add Stirling's approximation of log(y!) where y > 1: y*log(y) - y +
            log(2*pi*y)/2.
    """

    log_prediction: bool | None = None
    epsilon: float | None = None
    full: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Hinge(Loss, field="hinge"):
    """Hinge loss.

    The slope where target*prediction = 1 is 0.

    Attributes:
        convert_labels: Whether targets that are 0 or 1 throughout stand for -1 and 1, as in Keras.
    """

    convert_labels: bool | None = None


@dataclass(frozen=True, kw_only=True)
class SquaredHinge(Loss, field="squared_hinge"):
    """Squared hinge loss.

    Attributes:
        convert_labels: Whether targets that are 0 or 1 throughout stand for -1 and 1, as in Keras.
    """

    convert_labels: bool | None = None


@dataclass(frozen=True)
class CategoricalHinge(Loss, field="categorical_hinge"):
    """max(0, 1 + max((1 - y)*p) - sum(y*p)) over the last axis.

    Equal maxima share the slope.
    """


@dataclass(frozen=True, kw_only=True)
class CosineSimilarity(Loss, field="cosine_similarity"):
    """-sum(y*p)/(|y|*|p|) along an axis: -1 where they point the same way.

    The cosine distance is 1 more. Lengths below 1e-7 count as 1e-7.

    Attributes:
        axis: The axis of the vectors; negative counts from the end.
    """

    axis: int | None = None


@dataclass(frozen=True, kw_only=True)
class Iou(Loss, field="iou"):
    """1 - intersection/(union + epsilon) of boxes.

    The last axis of prediction and target holds x1, y1, x2, y2, where x1 <= x2 and y1 <= y2. Where an
    edge of one box lies on that of the other, both share the slope.

    Attributes:
        epsilon: What is added to denominators, at least 1e-30.
    """

    epsilon: float | None = None


@dataclass(frozen=True, kw_only=True)
class Giou(Loss, field="giou"):
    """IoU loss + (hull - union)/(hull + epsilon).

    The hull is the smallest box around both. Rezatofighi et al., 2019, as in torchvision.

    Attributes:
        epsilon: What is added to denominators, at least 1e-30.
    """

    epsilon: float | None = None


@dataclass(frozen=True, kw_only=True)
class Diou(Loss, field="diou"):
    """IoU loss + d^2/(c^2 + epsilon).

    d is the distance of the centres and c the diagonal of the smallest box around both. Zheng et al.,
    2020, as in torchvision.

    Attributes:
        epsilon: What is added to denominators, at least 1e-30.
    """

    epsilon: float | None = None


@dataclass(frozen=True, kw_only=True)
class Ciou(Loss, field="ciou"):
    """DIoU loss + a*v.

    v = (4/pi^2)*(atan(w_y/h_y) - atan(w_p/h_p))^2, from widths and heights, and a = v/(1 - IoU + v +
    epsilon). The gradient takes a as constant, as torchvision and the paper do. Zheng et al., 2020.

    Attributes:
        epsilon: What is added to denominators, at least 1e-30.
    """

    epsilon: float | None = None
