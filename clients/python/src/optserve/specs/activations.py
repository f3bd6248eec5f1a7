"""Activations.

Written by tools/generate_specs.py from optserve/v1/activation_spec.proto; change it there.
Formulas, ranges and defaults are the server's declarations.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from optserve.specs.base import ByConvention, Choice
from optserve.specs.enums import Convention
from optserve.v1 import activation_spec_pb2


@dataclass(frozen=True, kw_only=True)
class Activation(Choice, message=activation_spec_pb2.ActivationSpec, oneof="activation"):
    """An activation function.

    Attributes:
        convention: The convention whose defaults fill the unset fields. Default: KERAS.
    """

    convention: Convention = Convention.KERAS


@dataclass(frozen=True)
class Sigmoid(Activation, field="sigmoid"):
    """The logistic function.

    1/(1 + exp(-x)), from e = exp(-|x|), which never overflows:

    1/(1 + e) right of 0, e/(1 + e) left of it; the derivative is e/(1 + e)^2.
    """


@dataclass(frozen=True)
class Tanh(Activation, field="tanh"):
    """The hyperbolic tangent.

    tanh(x). The derivative is 4e/(1 + e)^2 with e = exp(-2|x|).

    1 - tanh(x)^2 is the same, but loses all its digits where tanh(x) is near 1.
    """


@dataclass(frozen=True, kw_only=True)
class ReLU(Activation, field="relu"):
    """The rectifier.

    x where x > threshold, otherwise negative_slope*(x - threshold). The derivative at 0 is 0.

    With ``max_value``, the first part is held to [0, max_value], as in Keras; the derivative
    at max_value is 0. At the threshold it is negative_slope.

    Attributes:
        max_value: Upper limit, at least 0; the part above the threshold is clipped to [0, max_value].
            Unset means no limit. The derivative at it is 0.
        negative_slope: Slope below the threshold, at least 0. Default: 0.0.
        threshold: Input from which the output is the input. Default: 0.0.
    """

    max_value: float | None = None
    negative_slope: float = 0.0
    threshold: float = 0.0


@dataclass(frozen=True, kw_only=True)
class LeakyReLU(Activation, field="leaky_relu"):
    """The leaky rectifier (Maas, Hannun and Ng, 2013).

    x where x > 0, otherwise negative_slope*x. The derivative at 0 is negative_slope.

    The defaults are those of Keras' layer, of PyTorch, of jax.nn and of tf.nn.

    Attributes:
        negative_slope: Slope for x < 0. At least 0. Default: 0.3 (KERAS), 0.01 (TORCH, OPTAX), 0.2
            (LECTURE).
    """

    negative_slope: ByConvention[float] = None


@dataclass(frozen=True, kw_only=True)
class Softmax(Activation, field="softmax"):
    """Softmax.

    y = exp(x)/sum(exp(x)) along an axis; the gradient is y*(dy - sum(y*dy)).

    Both are NaN where all inputs are -infinity, as in PyTorch.

    An input of +infinity has the output 1; several of them share it equally.

    Attributes:
        axis: The axis that sums to one; negative counts from the end. Default: -1.
    """

    axis: int = -1


@dataclass(frozen=True)
class PReLU(Activation, field="prelu"):
    """The parametric rectifier (He et al., 2015, arXiv:1502.01852).

    x where x > 0, otherwise slope*x, with a slope given beside x.

    The slope broadcasts to x: one number, one for each element of an example (Keras), or
    [channels, 1, 1] for channels in front of two more dimensions (PyTorch).

    Its slope is the request's field slope. The derivative at 0 is the slope there.
    """


@dataclass(frozen=True, kw_only=True)
class RReLU(Activation, field="rrelu"):
    """The randomized rectifier (Xu et al., 2015, arXiv:1505.00853).

    x where x > 0, otherwise slope*x, with slopes drawn from [lower, upper] when training.

    Otherwise every slope is (lower + upper)/2. Draws are made on the host, in float64 and in
    row-major order, so seed and shape alone decide about them: an activation and its gradient
    with the same seed agree.

    In training each element has its own slope, uniform on [lower, upper]; otherwise the slope is their
    mean.

    Attributes:
        lower: Smallest slope. In [0, 1e+30]. Default: 0.125.
        upper: Largest slope, at least lower. In [0, 1e+30]. Default: 0.3333333333333333.
        training: Whether slopes are random. Default: False.
        seed: Seed of the slopes, at least 0. Use another one for each step, and the same one for an
            activation and its gradient. Default: 0.
    """

    lower: float = 0.125
    upper: float = 0.3333333333333333
    training: bool = False
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class ELU(Activation, field="elu"):
    """The exponential linear unit (Clevert, Unterthiner and Hochreiter, 2015).

    x where x > 0, otherwise alpha*(exp(x) - 1). The derivative at 0 is alpha.

    Attributes:
        alpha: The negated limit at -infinity. In [0, 1e+30]. Default: 1.0.
    """

    alpha: float = 1.0


@dataclass(frozen=True)
class SELU(Activation, field="selu"):
    """The scaled exponential linear unit (Klambauer et al., 2017).

    scale*x where x > 0, otherwise scale*alpha*(exp(x) - 1). Left derivative at 0.
    """


@dataclass(frozen=True, kw_only=True)
class CELU(Activation, field="celu"):
    """The continuously differentiable exponential linear unit (Barron, 2017).

    x where x > 0, otherwise alpha*(exp(x/alpha) - 1). The derivative at 0 is 1.

    Attributes:
        alpha: The negated limit at -infinity. In [1e-30, 1e+30]. Default: 1.0.
    """

    alpha: float = 1.0


@dataclass(frozen=True, kw_only=True)
class GELU(Activation, field="gelu"):
    """The Gaussian error linear unit (Hendrycks and Gimpel, 2016).

    x*Phi(x), Phi being the standard normal distribution function.

    The approximation, jax.nn's default, is x/2*(1 + tanh(u)) = x*sigmoid(2u) with
    u = sqrt(2/pi)*(x + 0.044715*x^3).

    Attributes:
        approximate: Whether to compute x/2*(1 + tanh(sqrt(2/pi)*(x + 0.044715*x^3))) instead.
            Default: False (KERAS, TORCH, LECTURE), True (OPTAX).
    """

    approximate: ByConvention[bool] = None


@dataclass(frozen=True)
class SiLU(Activation, field="silu"):
    """The sigmoid linear unit (Elfwing, Uchibe and Doya, 2017), also called swish.

    x*sigmoid(x).
    """


@dataclass(frozen=True)
class Mish(Activation, field="mish"):
    """Mish (Misra, 2019).

    x*tanh(softplus(x)) = x*n/m, from e = exp(-|x|), which never overflows:

    n = e^2 + 2e and m = n + 2 left of 0, n = 1 + 2e and m = n + 2e^2 right of it. The
    derivative is n/m + 4x*k*(1 + e)/m^2 with k = e on the left and e^2 on the right.
    """


@dataclass(frozen=True, kw_only=True)
class Softplus(Activation, field="softplus"):
    """Softplus.

    log(1 + exp(beta*x))/beta = max(x, 0) + log(1 + e)/beta with e = exp(-beta*|x|).

    The derivative is 1/(1 + e) right of 0 and e/(1 + e) left of it. PyTorch's threshold,
    beyond which it takes x itself, is left out: it saves it an overflow that is none here.

    Attributes:
        beta: Sharpness of the transition at 0. In [1e-30, 1e+30]. Default: 1.0.
    """

    beta: float = 1.0


@dataclass(frozen=True)
class Softsign(Activation, field="softsign"):
    """Softsign.

    x/(1 + |x|). The derivative is 1/(1 + |x|)^2.
    """


@dataclass(frozen=True)
class HardSigmoid(Activation, field="hard_sigmoid"):
    """The hard sigmoid.

    x/6 + 1/2, cut off at 0 and 1 (Keras 3). The derivative at -3 and 3 is 0.
    """


@dataclass(frozen=True)
class HardSwish(Activation, field="hard_swish"):
    """The hard swish (Howard et al., 2019), also called hard SiLU.

    x*hard_sigmoid(x). The derivative is 0 at -3 and 1 at 3.
    """


@dataclass(frozen=True, kw_only=True)
class LogSoftmax(Activation, field="log_softmax"):
    """The logarithm of softmax.

    y = x - log(sum(exp(x))) along an axis; the gradient is dy - softmax(x)*sum(dy).

    Both are NaN where all inputs are -infinity, as in PyTorch.

    Attributes:
        axis: The axis whose exponentials sum to one; negative counts from the end. Default: -1.
    """

    axis: int = -1


@dataclass(frozen=True)
class Maxout(Activation, field="maxout"):
    """Maxout (Goodfellow et al., 2013).

    The greatest of each group of group_size neighbours along an axis.

    The gradient goes to the first of a group that is as great as its greatest.

    Attributes:
        group_size: Elements of a group, at least 1; divides the axis' extent. Required.
        axis: The axis that is grouped; negative counts from the end. Default: -1.
    """

    group_size: int
    _: KW_ONLY
    axis: int = -1


@dataclass(frozen=True)
class ReLU6(Activation, field="relu6"):
    """The rectifier that ends at 6 (Krizhevsky, 2010).

    min(max(x, 0), 6). The derivative at 0 and 6 is 0.
    """


@dataclass(frozen=True, kw_only=True)
class Threshold(Activation, field="threshold"):
    """A constant below a threshold.

    x where x > threshold, otherwise value. The derivative at the threshold is 0.

    Attributes:
        threshold: Input above which the output is the input. Default: 0.0.
        value: Output up to the threshold. Default: 0.0.
    """

    threshold: float = 0.0
    value: float = 0.0


@dataclass(frozen=True)
class Linear(Activation, field="linear"):
    """The identity.

    x.
    """


@dataclass(frozen=True, kw_only=True)
class HardTanh(Activation, field="hard_tanh"):
    """The hard hyperbolic tangent (Collobert, 2004).

    x held to [min_value, max_value]. The derivative at both is 0.

    Attributes:
        min_value: Lower limit. Default: -1.0.
        max_value: Upper limit, greater than min_value. Default: 1.0.
    """

    min_value: float = -1.0
    max_value: float = 1.0


@dataclass(frozen=True, kw_only=True)
class HardShrink(Activation, field="hard_shrink"):
    """Hard shrinkage.

    x where |x| > threshold, otherwise 0. The derivative at the threshold is 0.

    Attributes:
        threshold: Magnitude up to which inputs become 0, at least 0. PyTorch's lambd. Default: 0.5.
    """

    threshold: float = 0.5


@dataclass(frozen=True, kw_only=True)
class SoftShrink(Activation, field="soft_shrink"):
    """Soft shrinkage.

    x nearer to 0 by threshold, and 0 from there. The derivative at the threshold is 0.

    Attributes:
        threshold: What is taken off magnitudes, at least 0. PyTorch's lambd. Default: 0.5.
    """

    threshold: float = 0.5


@dataclass(frozen=True)
class TanhShrink(Activation, field="tanh_shrink"):
    """The input without its hyperbolic tangent.

    x - tanh(x). The derivative is tanh(x)^2.
    """


@dataclass(frozen=True)
class LogSigmoid(Activation, field="log_sigmoid"):
    """The logarithm of the logistic function.

    -log(1 + exp(-x)) = min(x, 0) - log(1 + e) with e = exp(-|x|).

    The derivative is e/(1 + e) right of 0 and 1/(1 + e) left of it.
    """


@dataclass(frozen=True)
class SparseSigmoid(Activation, field="sparse_sigmoid"):
    """The sparse sigmoid (Blondel et al., 2019, arXiv:1901.02324).

    (x + 1)/2, cut off at 0 and 1: the derivative of sparse plus. Its own at -1 and 1 is 0.
    """


@dataclass(frozen=True)
class SparsePlus(Activation, field="sparse_plus"):
    """Sparse plus (Blondel et al., 2019, arXiv:1901.02324).

    0 where x <= -1, x where x >= 1, and (x + 1)^2/4 between. The derivative is the sparse sigmoid.
    """


@dataclass(frozen=True, kw_only=True)
class Squareplus(Activation, field="squareplus"):
    """Squareplus (Barron, 2021, arXiv:2112.11687).

    (x + sqrt(x^2 + b))/2 = max(x, 0) + b/(2*(r + |x|)) with r = sqrt(x^2 + b).

    The derivative is s = b/(2*r*(r + |x|)) left of 0 and 1 - s right of it. So nothing
    cancels on the left, and a square that overflows leaves max(x, 0).

    Attributes:
        b: Size of the transition at 0, in [1e-30, 1e30]. In [1e-30, 1e+30]. Default: 4.0.
    """

    b: float = 4.0


@dataclass(frozen=True)
class ExponentialActivation(Activation, field="exponential"):
    """The exponential function.

    exp(x), which is its own derivative.
    """


@dataclass(frozen=True, kw_only=True)
class Softmin(Activation, field="softmin"):
    """Softmin.

    Softmax of -x along an axis; the gradient is -y*(dy - sum(y*dy)).

    Both are NaN where all inputs are infinity, as in PyTorch.

    Attributes:
        axis: The axis that sums to one; negative counts from the end. Default: -1.
    """

    axis: int = -1


@dataclass(frozen=True, kw_only=True)
class Sparsemax(Activation, field="sparsemax"):
    """Sparsemax (Martins and Astudillo, 2016, arXiv:1602.02068).

    max(x - t, 0) along an axis, with the t that makes their sum 1.

    The gradient is dy - mean(dy) over the outputs above 0, and 0 elsewhere.

    An input of +infinity has the output 1; several of them share it equally.

    Attributes:
        axis: The axis that sums to one; negative counts from the end. Default: -1.
    """

    axis: int = -1


@dataclass(frozen=True, kw_only=True)
class GLU(Activation, field="glu"):
    """The gated linear unit (Dauphin et al., 2017, arXiv:1612.08083).

    a*sigmoid(b), where a and b are the halves of the input along an axis.

    The gradient is dy*s for a and dy*a*s*(1 - s) for b, with s = sigmoid(b). Where a is
    infinite and s or its slope 0, the product is 0.

    The output has half the extent along the axis, which must be even.

    Attributes:
        axis: The axis that is halved; negative counts from the end. Default: -1.
    """

    axis: int = -1
