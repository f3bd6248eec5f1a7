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


@dataclass(frozen=True)
class ReLU(Activation, field="relu"):
    """The rectifier.

    max(x, 0). The derivative at 0 is 0.
    """


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
