"""Losses.

Written by tools/generate_specs.py from optserve/v1/loss_spec.proto; change it there.
Formulas, ranges and defaults are the server's declarations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass

from optserve.specs.base import ByConvention, Choice
from optserve.specs.enums import Convention, FenchelYoungRegularizer, LossReduction, TripletDistance
from optserve.v1 import loss_spec_pb2


@dataclass(frozen=True, kw_only=True)
class Loss(Choice, message=loss_spec_pb2.LossSpec, oneof="loss"):
    """A loss function.

    Attributes:
        convention: The convention whose defaults fill the unset fields. Default: KERAS.
        reduction: How the per-example losses become one value. Default: SUM_OVER_BATCH_SIZE.
    """

    convention: Convention = Convention.KERAS
    reduction: LossReduction = LossReduction.SUM_OVER_BATCH_SIZE


@dataclass(frozen=True)
class MeanSquaredError(Loss, field="mean_squared_error"):
    """Mean squared error.

    mean((p - y)^2) over the last axis; the gradient is 2*(p - y)/n.
    """


@dataclass(frozen=True, kw_only=True)
class CategoricalCrossentropy(Loss, field="categorical_crossentropy"):
    """Categorical cross-entropy.

    -sum(y*log(q)) along an axis, with y smoothed to y*(1 - e) + e/classes, where q is

        softmax(prediction)          from logits
        prediction/sum(prediction)   otherwise, clipped to [1e-7, 1 - 1e-7]  (Keras)

    Targets are distributions over the classes, of the prediction's dtype and shape.

    If all logits along the axis are -infinity, value and gradient are NaN, as in PyTorch; this holds for
    every cross-entropy over classes.

    Attributes:
        from_logits: Whether predictions are logits rather than probabilities. Default: False (KERAS,
            LECTURE), True (TORCH, OPTAX).
        label_smoothing: Label smoothing e: the target is y*(1 - e) + e/classes. In [0, 1]. Default:
            0.0.
        axis: The class axis; negative counts from the end. Default: -1 (KERAS, OPTAX, LECTURE), 1
            (TORCH).
        class_weights: Factors of the classes' terms, smoothing included, each at least 0; none means
            1.
    """

    from_logits: ByConvention[bool] = None
    label_smoothing: float = 0.0
    axis: ByConvention[int] = None
    class_weights: Sequence[float] = ()


@dataclass(frozen=True, kw_only=True)
class SparseCategoricalCrossentropy(Loss, field="sparse_categorical_crossentropy"):
    """Categorical cross-entropy against class indices.

    -log(q[y]) with q as in categorical cross-entropy.

    Targets are int32 or int64 in [0, classes), shaped like the prediction without its
    class axis. Examples whose class is ignore_class count as 0 and in no mean. An example's
    weight is its sample weight times its class' weight, as in PyTorch's mean.

    Attributes:
        from_logits: Whether predictions are logits rather than probabilities. Default: False (KERAS,
            LECTURE), True (TORCH, OPTAX).
        axis: The class axis; negative counts from the end. Default: -1 (KERAS, OPTAX, LECTURE), 1
            (TORCH).
        label_smoothing: Label smoothing e, as in CategoricalCrossentropy. In [0, 1]. Default: 0.0.
        class_weights: Factors of the classes' terms, smoothing included, each at least 0; none means
            1. They count as sample weights in LossReduction.MEAN_WITH_SAMPLE_WEIGHT.
        ignore_class: Class index of examples that count as 0 and in no mean: Keras' ignore_class and
            PyTorch's ignore_index. It need not be a class of the prediction. If unset, -100 under
            Convention.TORCH, and none otherwise.
    """

    from_logits: ByConvention[bool] = None
    axis: ByConvention[int] = None
    label_smoothing: float = 0.0
    class_weights: Sequence[float] = ()
    ignore_class: ByConvention[int] = None


@dataclass(frozen=True)
class Custom(Loss, field="custom"):
    """A formula of the caller's own.

    mean(f(p, y)) over the last axis; the gradient is f'(p, y)/n.

    Element by element, f is the expression of y_pred and y_true that the caller sends. The
    mean is that of every other loss over the last axis; the lecture's sum over the batch,
    if there is one output, is the reduction SUM.

    The server differentiates the formula for the gradient.

    Attributes:
        expression: The formula, of at most 1024 characters. Required. Its variables are y_pred and
            y_true; numbers are written as in "99", "0.5" or "1e-7". It may use + - * / and parentheses;
            x**n and power(x, n) for whole numbers n from -16 to 16; abs, sqrt, exp, expm1, log, log1p,
            tanh and sign of one argument; maximum and minimum of two; and where(a < b, x, y), with < <= >
            >= == or !=. At points without a derivative, the gradient is that of the branch that where
            selects, the mean of both sides if maximum or minimum have equal arguments, and 0 for abs at
            0. Example: "where(y_pred > y_true, COST*(y_pred - y_true), PROFIT*(y_true - y_pred))".
        constants: Named constants of the formula, such as {"COST": 1, "PROFIT": 99}: at most 32, each
            finite, named in ASCII letters, digits and underscores.
    """

    expression: str
    _: KW_ONLY
    constants: Mapping[str, float] | None = None


@dataclass(frozen=True)
class MeanAbsoluteError(Loss, field="mean_absolute_error"):
    """Mean absolute error.

    mean(|p - y|) over the last axis; the gradient is sign(p - y)/n, 0 where they are equal.

    The derivative at 0 is 0.
    """


@dataclass(frozen=True, kw_only=True)
class Huber(Loss, field="huber"):
    """Huber's loss (1964).

    With e = p - y, the mean over the last axis of

        e^2/2                        where |e| <= delta
        delta*|e| - delta^2/2        otherwise

    The derivative is e, held to [-delta, delta].

    With e = prediction - target: e^2/2 if |e| <= delta, otherwise delta*|e| - delta^2/2.

    Attributes:
        delta: Error at which the loss becomes linear, greater than 0. Default: 1.0.
    """

    delta: float = 1.0


@dataclass(frozen=True, kw_only=True)
class SmoothL1(Loss, field="smooth_l1"):
    """Smooth L1 (Girshick, 2015).

    Huber's loss with delta = beta, divided by beta. With e = p - y, the mean over the last axis of

        e^2/(2*beta)    where |e| < beta
        |e| - beta/2    otherwise

    A beta of 0, or one that rounds to 0 in the prediction's dtype, gives |e|.

    Attributes:
        beta: Error at which the loss becomes linear, at least 0; 0 makes it the mean absolute error.
            Default: 1.0.
    """

    beta: float = 1.0


@dataclass(frozen=True)
class LogCosh(Loss, field="log_cosh"):
    """The logarithm of the hyperbolic cosine.

    log(cosh(e)) with e = p - y, the mean over the last axis; the derivative is tanh(e).

    From a = |e|, which never overflows and keeps its digits near 0:

        log(1 + (1 - exp(-a))^2*exp(a)/2)    where a < 1
        a + log(1 + exp(-2a)) - log(2)       otherwise
    """


@dataclass(frozen=True)
class MeanSquaredLogarithmicError(Loss, field="mean_squared_logarithmic_error"):
    """Mean squared logarithmic error.

    mean((log(1 + p) - log(1 + y))^2) over the last axis, where what is below 1e-7 counts as 1e-7.

    The derivative is 2*(log(1 + p) - log(1 + y))/(1 + p), 0 below 1e-7.

    Numbers below 1e-7 count as 1e-7.
    """


@dataclass(frozen=True, kw_only=True)
class BinaryCrossentropy(Loss, field="binary_crossentropy"):
    """Binary cross-entropy.

    -w*y*log(p) - (1 - y)*log(1 - p), the mean over an axis, where p is

        sigmoid(prediction)    from logits
        prediction             otherwise, clipped to [1e-7, 1 - 1e-7]  (Keras)

    and w the weight of positive targets, which PyTorch calls pos_weight: one, times one for
    each place along the axis.

    Probabilities are clipped to [1e-7, 1 - 1e-7]; logits go through log-sum-exp.

    Attributes:
        from_logits: Whether predictions are logits rather than probabilities. Default: False (KERAS,
            LECTURE), True (TORCH, OPTAX).
        label_smoothing: Label smoothing e: the target is y*(1 - e) + e/2. In [0, 1]. Default: 0.0.
        axis: The axis that the mean is taken over; negative counts from the end. Default: -1.
        positive_weight: Factor of the term of positive targets, at least 0. PyTorch's pos_weight.
            Default: 1.0.
        positive_weights: Further factors of the term of positive targets, one for each place along
            the axis, each at least 0; none means 1. PyTorch's pos_weight of several classes.
    """

    from_logits: ByConvention[bool] = None
    label_smoothing: float = 0.0
    axis: int = -1
    positive_weight: float = 1.0
    positive_weights: Sequence[float] = ()


@dataclass(frozen=True, kw_only=True)
class BinaryFocalCrossentropy(Loss, field="binary_focal_crossentropy"):
    """Binary focal cross-entropy (Lin et al., 2017).

    a*m^gamma*c, the mean over an axis, where c is binary cross-entropy and

        m = y*(1 - p) + (1 - y)*p              how wrong the answer is; p is not clipped here
        a = y*alpha + (1 - y)*(1 - alpha)      with class balancing (torchvision), otherwise 1

    From logits everything is computed by log-sum-exp, as in optax and torchvision. Keras
    clips their probabilities, which differs beyond logits of 16 only.

    Attributes:
        from_logits: Whether predictions are logits rather than probabilities. Default: False (KERAS,
            LECTURE), True (TORCH, OPTAX).
        label_smoothing: Label smoothing e: the target is y*(1 - e) + e/2. In [0, 1]. Default: 0.0.
        axis: The axis that the mean is taken over; negative counts from the end. Default: -1.
        gamma: Exponent, at least 0; 0 makes it binary cross-entropy. Default: 2.0.
        apply_class_balancing: Whether to multiply by y*alpha + (1 - y)*(1 - alpha). Default: False
            (KERAS, OPTAX, LECTURE), True (TORCH).
        alpha: Weight of positive targets if balancing is applied. In [0, 1]. Default: 0.25.
    """

    from_logits: ByConvention[bool] = None
    label_smoothing: float = 0.0
    axis: int = -1
    gamma: float = 2.0
    apply_class_balancing: ByConvention[bool] = None
    alpha: float = 0.25


@dataclass(frozen=True, kw_only=True)
class CategoricalFocalCrossentropy(Loss, field="categorical_focal_crossentropy"):
    """Categorical focal cross-entropy.

    -alpha*sum(y*(1 - q)^gamma*log(q)) along an axis, where q is

        softmax(prediction)          from logits; Keras clips it, which differs below 1e-7 only
        prediction/sum(prediction)   otherwise, clipped to [1e-7, 1 - 1e-7]  (Keras)

    Attributes:
        from_logits: Whether predictions are logits rather than probabilities. Default: False (KERAS,
            LECTURE), True (TORCH, OPTAX).
        label_smoothing: Label smoothing e: the target is y*(1 - e) + e/classes. In [0, 1]. Default:
            0.0.
        axis: The class axis; negative counts from the end. Default: -1 (KERAS, OPTAX, LECTURE), 1
            (TORCH).
        gamma: Exponent, at least 0. Default: 2.0.
        alpha: Factor of the whole loss. At least 0. Default: 0.25.
        class_weights: Factors of the classes' terms in addition to alpha, each at least 0; none means
            1. A list of alphas in Keras is this with alpha 1.
    """

    from_logits: ByConvention[bool] = None
    label_smoothing: float = 0.0
    axis: ByConvention[int] = None
    gamma: float = 2.0
    alpha: float = 0.25
    class_weights: Sequence[float] = ()


@dataclass(frozen=True, kw_only=True)
class KLDivergence(Loss, field="kl_divergence"):
    """Kullback-Leibler divergence.

    The sum over the last axis of

        y*(log(y) - log(p))    with y and p clipped to [1e-7, 1]  (Keras)
        y*(log(y) - p)         of logarithmic predictions  (PyTorch, optax); 0 where y is 0

    With ``log_target``, targets are log(y), and 0 stays 0.

    Attributes:
        log_prediction: Whether predictions are logarithms of probabilities, as in PyTorch and optax;
            then nothing is clipped. Default: False (KERAS, LECTURE), True (TORCH, OPTAX).
        log_target: Whether targets are logarithms of probabilities as well; then predictions must be.
            Default: False.
    """

    log_prediction: ByConvention[bool] = None
    log_target: bool = False


@dataclass(frozen=True, kw_only=True)
class Poisson(Loss, field="poisson"):
    """The negative log-likelihood of counts under a Poisson distribution.

    The mean over the last axis of

        p - y*log(p + epsilon)    of rates  (Keras)
        exp(p) - y*p              of logarithms of rates  (PyTorch)

    ``full`` adds Stirling's approximation of log(y!), y*log(y) - y + log(2*pi*y)/2, where y > 1.

    Attributes:
        log_prediction: Whether predictions are logarithms of rates, as in PyTorch: exp(p) - y*p.
            Default: False (KERAS, OPTAX, LECTURE), True (TORCH).
        epsilon: Constant that is added to a rate, at least 0. Default: 1e-7 (KERAS, OPTAX, LECTURE),
            1e-8 (TORCH).
        full: Whether to add Stirling's approximation of log(y!) where y > 1: y*log(y) - y +
            log(2*pi*y)/2. Default: False.
    """

    log_prediction: ByConvention[bool] = None
    epsilon: ByConvention[float] = None
    full: bool = False


@dataclass(frozen=True, kw_only=True)
class Hinge(Loss, field="hinge"):
    """Hinge loss.

    max(1 - y*p, 0), the mean over the last axis; the derivative is -y where it is above 0.

    The derivative at target*prediction = 1 is 0.

    Attributes:
        convert_labels: Whether targets that are all 0 or 1 are converted to -1 and 1, as in Keras.
            Default: True (KERAS, TORCH, LECTURE), False (OPTAX).
    """

    convert_labels: ByConvention[bool] = None


@dataclass(frozen=True, kw_only=True)
class SquaredHinge(Loss, field="squared_hinge"):
    """Squared hinge loss.

    max(1 - y*p, 0)^2, the mean over the last axis; the derivative is -2*y*max(1 - y*p, 0).

    Attributes:
        convert_labels: Whether targets that are all 0 or 1 are converted to -1 and 1, as in Keras.
            Default: True (KERAS, TORCH, LECTURE), False (OPTAX).
    """

    convert_labels: ByConvention[bool] = None


@dataclass(frozen=True)
class CategoricalHinge(Loss, field="categorical_hinge"):
    """Categorical hinge loss.

    max(0, 1 + max((1 - y)*p) - sum(y*p)) over the last axis.

    Where it is above 0, the gradient is (1 - y)*t - y, where t shares 1 among the equal maxima.
    """


@dataclass(frozen=True, kw_only=True)
class CosineSimilarity(Loss, field="cosine_similarity"):
    """Cosine similarity as a loss.

    -sum(u*v) along an axis, where u = p/|p| and v = y/|y|: -1 where they point the same way.

    The gradient is (u*sum(u*v) - v)/|p|. Where |p| is held at 1e-7, it is -v/1e-7.

    The cosine distance is greater by 1. Lengths below 1e-7 count as 1e-7.

    Attributes:
        axis: The axis of the vectors; negative counts from the end. Default: -1.
    """

    axis: int = -1


@dataclass(frozen=True, kw_only=True)
class IoU(Loss, field="iou"):
    """Intersection over union of boxes as a loss.

    1 - intersection/(union + epsilon). Boxes that do not meet have no gradient.

    The last axis of prediction and target holds x1, y1, x2, y2, where x1 <= x2 and y1 <= y2. If edges of
    both boxes coincide, both share the gradient.

    Attributes:
        epsilon: Constant that is added to denominators, at least 1e-30. Default: 1e-7.
    """

    epsilon: float = 1e-7


@dataclass(frozen=True, kw_only=True)
class GIoU(Loss, field="giou"):
    """Generalized IoU of boxes as a loss (Rezatofighi et al., 2019).

    1 - IoU + (hull - union)/(hull + epsilon), where the hull is the smallest box around both.

    Attributes:
        epsilon: Constant that is added to denominators, at least 1e-30. Default: 1e-7.
    """

    epsilon: float = 1e-7


@dataclass(frozen=True, kw_only=True)
class DIoU(Loss, field="diou"):
    """Distance IoU of boxes as a loss (Zheng et al., 2020).

    1 - IoU + d^2/(c^2 + epsilon): distance of the centres, diagonal of the box around both.

    Attributes:
        epsilon: Constant that is added to denominators, at least 1e-30. Default: 1e-7.
    """

    epsilon: float = 1e-7


@dataclass(frozen=True, kw_only=True)
class CIoU(Loss, field="ciou"):
    """Complete IoU of boxes as a loss (Zheng et al., 2020).

    The DIoU loss + a*v, where

        v = (4/pi^2)*(atan(w_y/h_y) - atan(w_p/h_p))^2      how unlike the shapes are
        a = v/(1 - IoU + v + epsilon)

    The gradient takes a as constant, as torchvision and the paper do: it is not the
    derivative of the value.

    Attributes:
        epsilon: Constant that is added to denominators, at least 1e-30. Default: 1e-7.
    """

    epsilon: float = 1e-7


@dataclass(frozen=True, kw_only=True)
class NLL(Loss, field="nll"):
    """The negative log-likelihood of classes whose log-probabilities are predicted.

    -w[y]*p[y], where p are log-probabilities along the class axis and w class weights.

    The gradient is -w[y] at the class y and 0 elsewhere. Examples whose class is
    ignore_class count as 0 and in no mean. An example's weight is its sample weight times
    its class' weight, as in PyTorch's mean.

    Attributes:
        axis: The class axis; negative counts from the end. Default: -1 (KERAS, OPTAX, LECTURE), 1
            (TORCH).
        class_weights: Factors of the classes, each at least 0; none means 1. They count as sample
            weights in LossReduction.MEAN_WITH_SAMPLE_WEIGHT.
        ignore_class: Class index of examples that count as 0 and in no mean. If unset, -100 under
            Convention.TORCH, and none otherwise.
    """

    axis: ByConvention[int] = None
    class_weights: Sequence[float] = ()
    ignore_class: ByConvention[int] = None


@dataclass(frozen=True, kw_only=True)
class GaussianNLL(Loss, field="gaussian_nll"):
    """The negative log-likelihood of a normal distribution with predicted variance.

    (log(v) + (p - y)^2/v)/2, the mean over the last axis, with v = max(variance, epsilon).

    Predictions are means p and variances, stacked: [..., 2, n]. ``full`` adds log(2*pi)/2.
    The gradient with respect to the variance is that with respect to v, below epsilon as
    well, as in PyTorch: (1/v - (p - y)^2/v^2)/2.

    The prediction holds means and variances, [..., 2, n], and the target has the shape [..., n].

    Attributes:
        full: Whether to add log(2*pi)/2. Default: False.
        epsilon: Smallest variance, at least 1e-30. Default: 1e-6.
    """

    full: bool = False
    epsilon: float = 1e-6


@dataclass(frozen=True)
class SoftMargin(Loss, field="soft_margin"):
    """Soft margin loss: the logistic loss of signs.

    log(1 + exp(-y*p)), the mean over the last axis; the derivative is -y*sigmoid(-y*p).

    Targets are -1 and 1.
    """


@dataclass(frozen=True, kw_only=True)
class MultiMargin(Loss, field="multi_margin"):
    """Multi-class margin loss (Weston and Watkins, 1999).

    w[y]*sum(h_i^degree)/classes over the classes i other than y, along the last axis, where

    h_i = max(margin - p[y] + p[i], 0)

    The gradient is w[y]*degree*h_i^(degree - 1)/classes where h_i is above 0, and at y the
    negated sum of the others.

    Targets are class indices.

    Attributes:
        degree: Exponent, 1 or 2. PyTorch's p. One of 1, 2. Default: 1.
        margin: Lead of the asked class beyond which another one costs nothing. Default: 1.0.
        class_weights: Factors of the asked classes, each at least 0; none means 1.
    """

    degree: int = 1
    margin: float = 1.0
    class_weights: Sequence[float] = ()


@dataclass(frozen=True)
class MultilabelMargin(Loss, field="multilabel_margin"):
    """Margin loss of several classes for each example.

    sum(max(1 - p[j] + p[i], 0))/classes over asked classes j and others i, along the last axis.

    Targets are int32 or int64 of the prediction's shape: along the last axis the indices of
    the asked classes, up to the first that is negative. The gradient at i counts the terms
    above 0 that hold p[i], negated where i is asked, divided by the number of classes.
    """


@dataclass(frozen=True, kw_only=True)
class MultilabelSoftMargin(Loss, field="multilabel_soft_margin"):
    """Logistic loss of several classes for each example.

    -w*(y*log(sigmoid(p)) + (1 - y)*log(sigmoid(-p))), the mean over the classes of the last axis.

    The derivative is w*((1 - y)*sigmoid(p) - y*sigmoid(-p)). Class weights w are 1 unless stated.

    Attributes:
        class_weights: Factors of the classes' terms, each at least 0; none means 1.
    """

    class_weights: Sequence[float] = ()


@dataclass(frozen=True, kw_only=True)
class TripletMargin(Loss, field="triplet_margin"):
    """Triplet margin loss (Balntas et al., 2016).

    max(d(a, p) - d(a, n) + margin, 0) of anchors a, positives p and negatives n, where d is

        sum(|u - v + epsilon|^degree)^(1/degree)     MINKOWSKI (PyTorch)
        (sum(|u - v|^degree) + epsilon)^(1/degree)   MINKOWSKI with epsilon_in_sum (optax)
        1 - u*v/(|u|*|v|)                            COSINE; lengths are at least epsilon

    Predictions are the three vectors, stacked: [..., 3, n]; the target is empty. With
    ``swap``, d(p, n) takes the place of d(a, n) where it is smaller.

    Attributes:
        margin: Lead of the positive beyond which a triplet costs nothing, at least 0. Default: 1.0.
        distance: The distance d. Default: MINKOWSKI.
        degree: Exponent of TripletDistance.MINKOWSKI, in [1, 64]. Default: 2.0.
        epsilon: Constant that is added to differences or to sums, and smallest length of
            TripletDistance.COSINE; at least 1e-30. Default: 1e-6.
        epsilon_in_sum: Whether epsilon is added to the sum of powers, as in optax, rather than to
            each difference, as in PyTorch. Default: False (KERAS, TORCH, LECTURE), True (OPTAX).
        swap: Whether d(p, n) takes the place of d(a, n) where it is smaller. Default: False.
    """

    margin: float = 1.0
    distance: TripletDistance = TripletDistance.MINKOWSKI
    degree: float = 2.0
    epsilon: float = 1e-6
    epsilon_in_sum: ByConvention[bool] = None
    swap: bool = False


@dataclass(frozen=True, kw_only=True)
class CosineEmbedding(Loss, field="cosine_embedding"):
    """Cosine embedding loss.

    With c = a*b/sqrt((|a|^2 + 1e-12)*(|b|^2 + 1e-12)),

        1 - c                where y is 1
        max(c - margin, 0)   where y is -1, and 0 for any other target

    Predictions are vectors a and b, stacked: [..., 2, n]; targets are [...].

    The prediction holds both vectors, [..., 2, n], and the target has the shape [...].

    Attributes:
        margin: Cosine below which vectors that should differ cost nothing, in [-1, 1]. Default: 0.0.
    """

    margin: float = 0.0


@dataclass(frozen=True, kw_only=True)
class HingeEmbedding(Loss, field="hinge_embedding"):
    """Hinge loss of distances.

    The mean over the last axis of

        p                    where y is 1
        max(margin - p, 0)   where y is -1

    Targets are -1 and 1; any other has the sum of both, as in PyTorch.

    Attributes:
        margin: Distance beyond which what should differ costs nothing. Default: 1.0.
    """

    margin: float = 1.0


@dataclass(frozen=True, kw_only=True)
class MarginRanking(Loss, field="margin_ranking"):
    """Margin ranking loss.

    max(margin - y*(a - b), 0), the mean over the last axis; the gradient is -y and y where above 0.

    Predictions are scores a and b, stacked: [..., 2, n]. Targets [..., n] are 1 where a
    should rank higher, and -1 where b should.

    Attributes:
        margin: Lead beyond which a pair costs nothing. Default: 0.0.
    """

    margin: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Dice(Loss, field="dice"):
    """Dice loss of masks (Sudre et al., 2017).

    1 - 2*sum(y*p)/(sum(y) + sum(p) + epsilon), with sums over the axes.

    The gradient is (r - 2*y)/divisor, where r is the ratio.

    Attributes:
        axes: The axes that are summed over; negative counts from the end. None means all, which makes
            one loss.
        epsilon: Constant that is added to the denominator, at least 1e-30. Default: 1e-7.
    """

    axes: Sequence[int] = ()
    epsilon: float = 1e-7


@dataclass(frozen=True, kw_only=True)
class Tversky(Loss, field="tversky"):
    """Tversky loss of masks (Salehi et al., 2017).

    1 - i/(i + alpha*sum(y*(1 - p)) + beta*sum(p*(1 - y)) + epsilon), with i = sum(y*p).

    Sums are over the axes. alpha weighs what is missed, beta what is found wrongly.

    Attributes:
        axes: The axes that are summed over; negative counts from the end. None means all, which makes
            one loss.
        epsilon: Constant that is added to the denominator, at least 1e-30. Default: 1e-7.
        alpha: Weight of what is missed, at least 0. Default: 0.5.
        beta: Weight of what is found wrongly, at least 0. Default: 0.5.
    """

    axes: Sequence[int] = ()
    epsilon: float = 1e-7
    alpha: float = 0.5
    beta: float = 0.5


@dataclass(frozen=True)
class MeanAbsolutePercentageError(Loss, field="mean_absolute_percentage_error"):
    """Mean absolute percentage error.

    100*mean(|p - y|/max(|y|, 1e-7)) over the last axis; the derivative at p = y is 0.

    Targets nearer to 0 than 1e-7 count as 1e-7.
    """


@dataclass(frozen=True)
class Perceptron(Loss, field="perceptron"):
    """Perceptron loss (Rosenblatt, 1958).

    max(-y*p, 0), the mean over the last axis; the derivative is -y where it is above 0.

    Targets are -1 and 1.
    """


@dataclass(frozen=True, kw_only=True)
class GeneralizedCrossentropy(Loss, field="generalized_crossentropy"):
    """Generalized cross-entropy (Zhang and Sabuncu, 2018, arXiv:1805.07836).

    (1 - p[y]^q)/q of probabilities along the last axis; the gradient at y is -p[y]^(q - 1).

    It nears cross-entropy as q nears 0, and is the absolute error at 1. Probabilities are
    neither renormalised nor clipped, as in Keras.

    Attributes:
        q: Robustness against wrong labels, in (0, 1): cross-entropy near 0, the absolute error near
            1. Default: 0.5.
    """

    q: float = 0.5


@dataclass(frozen=True, kw_only=True)
class FenchelYoung(Loss, field="fenchel_young"):
    """Fenchel-Young losses (Blondel et al., 2020, arXiv:1901.02324).

    max(q*p - r(q)) - y*p over distributions q along the last axis, where r(q) is

        sum(q*log(q))       SHANNON: the maximum is log(sum(exp(p))), at softmax(p)
        sum(q*(q - 1))/2    GINI: the maximum is at sparsemax(p)
        0                   NONE: the maximum is max(p); equal ones share the gradient

    The gradient is the q of the maximum, without y. As in optax, the regularizer of the
    target is left out, which is 0 for one-hot targets.

    Attributes:
        regularizer: The regularizer r. Default: SHANNON.
    """

    regularizer: FenchelYoungRegularizer = FenchelYoungRegularizer.SHANNON


@dataclass(frozen=True)
class SparsemaxLoss(Loss, field="sparsemax_loss"):
    """Sparsemax loss of yes-or-no answers (Blondel et al., 2020, arXiv:1901.02324).

    s(z), the mean over the last axis, where z is p if y is 0, and -p otherwise, and s(z) is

        0              where z <= -1
        (z + 1)^2/4    between
        z              where z >= 1

    The derivative is (z + 1)/2 held to [0, 1], negated unless y is 0.

    Of several classes, it is FenchelYoung with FenchelYoungRegularizer.GINI.
    """


@dataclass(frozen=True)
class MulticlassHinge(Loss, field="multiclass_hinge"):
    """Hinge loss of the best class against the asked one (Crammer and Singer, 2001).

    max(p + 1 - onehot(y)) - p[y] along the last axis; equal maxima share the gradient.
    """


@dataclass(frozen=True)
class MulticlassPerceptron(Loss, field="multiclass_perceptron"):
    """Perceptron loss of the best class against the asked one (Collins, 2002).

    max(p) - p[y] along the last axis; equal maxima share the gradient.
    """


@dataclass(frozen=True)
class RankingSoftmax(Loss, field="ranking_softmax"):
    """Softmax loss of a ranked list (ListNet: Cao et al., 2007).

    -sum(y*log(softmax(p))) over the items of the last axis; the gradient is softmax(p)*sum(y) - y.

    Targets y are relevances, at least 0, times the items' weights if they have some. Items
    whose score is -infinity are left out; a list of such items alone counts as 0.
    """


@dataclass(frozen=True, kw_only=True)
class Circle(Loss, field="circle"):
    """Circle loss (Sun et al., 2020, arXiv:2002.10857).

    log(1 + sum(exp(gamma*(d^2 - m^2)))*sum(exp(gamma*((1 - d)^2 - m^2)))) for each example, where

    d = max(1 - u*v, 0) is the cosine distance to another embedding of length 1, m the
    margin, the first sum over the examples of the same class and the second over the others.
    A distance of more than 1 + m counts in the second as 1 + m.

    Embeddings must have the length 1. Examples without one of the same class or without one
    of another count as 0 and in no mean.

    Targets are class indices, [n].

    Attributes:
        gamma: Scale, greater than 0. Default: 80.0.
        margin: The margin m, at least 0. Default: 0.4.
        remove_diagonal: Whether an embedding is not compared with itself. Default: True.
    """

    gamma: float = 80.0
    margin: float = 0.4
    remove_diagonal: bool = True


@dataclass(frozen=True, kw_only=True)
class NTXent(Loss, field="ntxent"):
    """Normalized temperature-scaled cross-entropy (Chen et al., 2020, arXiv:2002.05709).

    (n/pairs)*sum(log(exp(c_ij) + sum_k exp(c_ik)) - c_ij) over j for each example i, where

    c is the cosine divided by the temperature, j are the other examples of the same class, k
    those of other classes, and pairs is the number of all (i, j). So the mean of the n
    examples is the mean of the pairs, as in optax. 0 if there are none.

    Attributes:
        temperature: Divides the cosines; greater than 0. Default: 0.07.
    """

    temperature: float = 0.07
