"""Optimizers.

Written by tools/generate_specs.py from optserve/v1/optimizer_spec.proto; change it there.
Formulas, ranges and defaults are the server's declarations.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from optserve.specs.base import ByConvention, Choice
from optserve.specs.enums import (
    AdafactorForm,
    AdamaxForm,
    AMSGradMaximum,
    BiasCorrection,
    Convention,
    EpsilonPlacement,
    FedAdamCorrection,
    MomentumForm,
    MuonForm,
    NAdamForm,
    NesterovForm,
)
from optserve.v1 import optimizer_spec_pb2


@dataclass(frozen=True, kw_only=True)
class Optimizer(Choice, message=optimizer_spec_pb2.OptimizerSpec, oneof="algorithm"):
    """Which optimizer a session runs, and with which hyperparameters.

    Fields left unset take the default of the convention; a server answers with every field filled.
    Defaults and ranges: CapabilitiesService.GetCapabilities.

    Attributes:
        convention: The convention whose defaults fill the unset fields. Default: KERAS.
    """

    convention: Convention = Convention.KERAS


@dataclass(frozen=True)
class SGD(Optimizer, field="sgd"):
    """Plain gradient descent.

    p -= lr*g.

    Attributes:
        learning_rate: Step size, unless the session has a schedule. At least 0. Default: 0.01 (KERAS,
            OPTAX, LECTURE), 0.001 (TORCH).
    """

    learning_rate: float | None = None


@dataclass(frozen=True)
class Momentum(Optimizer, field="momentum"):
    """Gradient descent with momentum (Polyak, 1964; Qian, 1999).

    By `form`, with momentum mu,

        CLASSICAL   v = mu*v - lr*g; p += v                                (Keras)
        HEAVY_BALL  b = mu*b + (1 - dampening)*g, b = g at first; p -= lr*b  (PyTorch, optax)
        EMA         m = mu*m + (1 - mu)*g; p -= lr*m                       (the lecture)

    CLASSICAL keeps the learning rates of past steps in v, the others do not: they part
    when the rate changes.

    Attributes:
        learning_rate: Step size, unless the session has a schedule. At least 0. Default: 0.01 (KERAS,
            OPTAX, LECTURE), 0.001 (TORCH).
        momentum: Momentum: decay rate of the velocity. In [0, 1]. Default: 0.9.
        dampening: From the second step on, the gradient is multiplied by 1 - dampening; HEAVY_BALL
            only. In [0, 1]. Default: 0.0.
        form: How momentum accumulates. Default: CLASSICAL (KERAS), HEAVY_BALL (TORCH, OPTAX), EMA
            (LECTURE).
    """

    learning_rate: float | None = None
    _: KW_ONLY
    momentum: float = 0.9
    dampening: float = 0.0
    form: ByConvention[MomentumForm] = None


@dataclass(frozen=True)
class Nesterov(Optimizer, field="nesterov"):
    """Nesterov's accelerated gradient (Nesterov, 1983; Sutskever et al., 2013).

    By `form`, with momentum mu,

        KERAS          v = mu*v - lr*g; p += mu*v - lr*g
        TORCH          b = mu*b + g; p -= lr*(g + mu*b)                    (PyTorch, optax)
        LOOKAHEAD      v = mu*v - lr*g; p += v, with g taken at p + mu*v
        LOOKAHEAD_EMA  m = mu*m + (1 - mu)*g; p -= lr*m, with g taken at p - lr*m  (the lecture)

    The first two keep p where gradients are taken; the others keep p itself, and the
    caller asks for the point.

    Attributes:
        learning_rate: Step size, unless the session has a schedule. At least 0. Default: 0.01 (KERAS,
            OPTAX, LECTURE), 0.001 (TORCH).
        momentum: Momentum: decay rate of the velocity. In [0, 1]. Default: 0.9.
        form: How the gradient looks ahead. Default: KERAS (KERAS), TORCH (TORCH, OPTAX),
            LOOKAHEAD_EMA (LECTURE).
    """

    learning_rate: float | None = None
    _: KW_ONLY
    momentum: float = 0.9
    form: ByConvention[NesterovForm] = None


@dataclass(frozen=True)
class Adagrad(Optimizer, field="adagrad"):
    """Adagrad (Duchi, Hazan and Singer, 2011).

    a += g^2; p -= lr_t*g/root, with lr_t = lr/(1 + (t - 1)*learning_rate_decay) and, by
    `epsilon_placement`,

        INSIDE   root = sqrt(a + e)  (Keras, optax)
        OUTSIDE  root = sqrt(a) + e  (PyTorch; Goodfellow et al., Deep Learning, with e = 1e-7)

    Attributes:
        learning_rate: Step size, unless the session has a schedule. At least 0. Default: 0.001
            (KERAS, OPTAX, LECTURE), 0.01 (TORCH).
        epsilon: Small constant in the denominator, for numerical stability. At least 0. Default: 1e-7
            (KERAS, OPTAX), 1e-10 (TORCH), 0.0 (LECTURE).
        epsilon_placement: Whether epsilon is added inside or outside the square root. Default: INSIDE
            (KERAS, OPTAX, LECTURE), OUTSIDE (TORCH).
        initial_accumulator: What the sum of squares starts from. At least 0. Default: 0.1 (KERAS,
            OPTAX), 0.0 (TORCH, LECTURE).
        learning_rate_decay: The step size is divided by 1 + (t - 1)*learning_rate_decay. At least 0.
            Default: 0.0.
    """

    learning_rate: float | None = None
    _: KW_ONLY
    epsilon: ByConvention[float] = None
    epsilon_placement: ByConvention[EpsilonPlacement] = None
    initial_accumulator: ByConvention[float] = None
    learning_rate_decay: float = 0.0


@dataclass(frozen=True)
class RMSprop(Optimizer, field="rmsprop"):
    """RMSprop (Hinton, 2012, lecture 6 of his Coursera course).

    v = rho*v + (1 - rho)*g^2; d = g/root, where root is sqrt(v + e) or sqrt(v) + e and,
    when `centered`, v - mean^2 stands for v with mean = rho*mean + (1 - rho)*g. Then

        without momentum  p -= lr*d
        CLASSICAL         velocity = mu*velocity - lr*d; p += velocity  (Keras, optax)
        HEAVY_BALL        buffer = mu*buffer + d; p -= lr*buffer        (PyTorch)

    Attributes:
        learning_rate: Step size, unless the session has a schedule. At least 0. Default: 0.001
            (KERAS, OPTAX, LECTURE), 0.01 (TORCH).
        rho: Exponential decay rate of the average. In [0, 1). Default: 0.9 (KERAS, OPTAX, LECTURE),
            0.99 (TORCH).
        momentum: Momentum: decay rate of the velocity; 0 for no velocity. In [0, 1]. Default: 0.0.
        epsilon: Small constant in the denominator, for numerical stability. At least 0. Default: 1e-7
            (KERAS), 1e-8 (TORCH, OPTAX), 0.0 (LECTURE).
        epsilon_placement: Whether epsilon is added inside or outside the square root. Default: INSIDE
            (KERAS, OPTAX, LECTURE), OUTSIDE (TORCH).
        centered: Whether the variance is taken around the mean gradient. Default: False.
        momentum_form: CLASSICAL keeps the learning rate inside the velocity (Keras, optax),
            HEAVY_BALL outside (PyTorch). EMA is refused. One of CLASSICAL, HEAVY_BALL. Default: CLASSICAL
            (KERAS, OPTAX, LECTURE), HEAVY_BALL (TORCH).
    """

    learning_rate: float | None = None
    _: KW_ONLY
    rho: ByConvention[float] = None
    momentum: float = 0.0
    epsilon: ByConvention[float] = None
    epsilon_placement: ByConvention[EpsilonPlacement] = None
    centered: bool = False
    momentum_form: ByConvention[MomentumForm] = None


@dataclass(frozen=True)
class Adadelta(Optimizer, field="adadelta"):
    """Adadelta (Zeiler, 2012, arXiv:1212.5701).

    v = rho*v + (1 - rho)*g^2; d = sqrt(u + e)/sqrt(v + e)*g; u = rho*u + (1 - rho)*d^2;
    p -= lr*d.

    u starts at 0, so that without e nothing would ever move: here LECTURE means the paper's
    e.

    Attributes:
        learning_rate: Step size, unless the session has a schedule. At least 0. Default: 0.001
            (KERAS), 1.0 (TORCH, OPTAX, LECTURE).
        rho: Exponential decay rate of the averages. In [0, 1). Default: 0.95 (KERAS, LECTURE), 0.9
            (TORCH, OPTAX).
        epsilon: Small constant in both square roots, for numerical stability. Greater than 0.
            Default: 1e-7 (KERAS), 1e-6 (TORCH, OPTAX, LECTURE).
    """

    learning_rate: float | None = None
    _: KW_ONLY
    rho: ByConvention[float] = None
    epsilon: ByConvention[float] = None


@dataclass(frozen=True)
class Adam(Optimizer, field="adam"):
    """Adam (Kingma and Ba, 2015, arXiv:1412.6980).

    m = b1*m + (1 - b1)*g; v = b2*v + (1 - b2)*g^2; then, by `bias_correction`,

        FOLDED  p -= lr*sqrt(1 - b2^t)/(1 - b1^t) * m/(sqrt(v) + e)      (Keras)
        HATTED  p -= lr*m^/(sqrt(v^) + e), m^ = m/(1 - b1^t), v^ = v/(1 - b2^t)
        NONE    p -= lr*m/(sqrt(v) + e)

    `epsilon_root` is added to whatever the root is taken of (optax).

    Attributes:
        learning_rate: Step size, unless the session has a schedule. At least 0. Default: 0.001.
        beta1: Exponential decay rate of the first moment. In [0, 1). Default: 0.9.
        beta2: Exponential decay rate of the second moment. In [0, 1). Default: 0.999.
        epsilon: Small constant in the denominator, for numerical stability. At least 0. Default: 1e-7
            (KERAS), 1e-8 (TORCH, OPTAX), 0.0 (LECTURE).
        epsilon_placement: Whether epsilon is added inside or outside the square root. Default:
            OUTSIDE.
        bias_correction: How the moments are corrected. Default: FOLDED (KERAS), HATTED (TORCH, OPTAX,
            LECTURE).
        epsilon_root: Added inside the square root, independent of epsilon_placement. optax. At least
            0. Default: 0.0.
    """

    learning_rate: float | None = None
    _: KW_ONLY
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: ByConvention[float] = None
    epsilon_placement: EpsilonPlacement = EpsilonPlacement.OUTSIDE
    bias_correction: ByConvention[BiasCorrection] = None
    epsilon_root: float = 0.0


@dataclass(frozen=True)
class AMSGrad(Optimizer, field="amsgrad"):
    """AMSGrad (Reddi, Kale and Kumar, 2018, arXiv:1904.09237).

    Adam with w for v in the root, where by `maximum`

        RAW          w = max(w, v), then corrected by `bias_correction`  (Keras, PyTorch)
        CORRECTED    w = max(w, v/(1 - b2^t)), over m/(1 - b1^t)         (optax)
        UNCORRECTED  v = max(v, b2*v + (1 - b2)*g^2) stands for both, and nothing is corrected:
                     the next average continues from the maximum           (the lecture)

    RAW without a correction is the paper's own form.

    Attributes:
        learning_rate: Step size, unless the session has a schedule. At least 0. Default: 0.001.
        beta1: Exponential decay rate of the first moment. In [0, 1). Default: 0.9.
        beta2: Exponential decay rate of the second moment. In [0, 1). Default: 0.999.
        epsilon: Small constant in the denominator, for numerical stability. At least 0. Default: 1e-7
            (KERAS), 1e-8 (TORCH, OPTAX), 0.0 (LECTURE).
        epsilon_placement: Whether epsilon is added inside or outside the square root. Default:
            OUTSIDE.
        bias_correction: How the moments are corrected; used under RAW only. Default: FOLDED (KERAS),
            HATTED (TORCH, OPTAX), NONE (LECTURE).
        maximum: The quantity whose running maximum is taken. Default: RAW (KERAS, TORCH), CORRECTED
            (OPTAX), UNCORRECTED (LECTURE).
        epsilon_root: Added inside the square root, independent of epsilon_placement. optax. At least
            0. Default: 0.0.
    """

    learning_rate: float | None = None
    _: KW_ONLY
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: ByConvention[float] = None
    epsilon_placement: EpsilonPlacement = EpsilonPlacement.OUTSIDE
    bias_correction: ByConvention[BiasCorrection] = None
    maximum: ByConvention[AMSGradMaximum] = None
    epsilon_root: float = 0.0


@dataclass(frozen=True)
class AdamW(Optimizer, field="adamw"):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019, arXiv:1711.05101).

    p -= lr*wd*p, then Adam.

    The session takes the decay off before the rule, as it does for any rule that is given
    one, so the update is Adam's own.

    Attributes:
        learning_rate: Step size, unless the session has a schedule. At least 0. Default: 0.001.
        beta1: Exponential decay rate of the first moment. In [0, 1). Default: 0.9.
        beta2: Exponential decay rate of the second moment. In [0, 1). Default: 0.999.
        epsilon: Small constant in the denominator, for numerical stability. At least 0. Default: 1e-7
            (KERAS), 1e-8 (TORCH, OPTAX), 0.0 (LECTURE).
        epsilon_placement: Whether epsilon is added inside or outside the square root. Default:
            OUTSIDE.
        bias_correction: How the moments are corrected. Default: FOLDED (KERAS), HATTED (TORCH, OPTAX,
            LECTURE).
        weight_decay: p -= lr*weight_decay*p before the step. A decoupled weight decay of the session
            or of a parameter group replaces it. At least 0. Default: 0.004 (KERAS, LECTURE), 0.01
            (TORCH), 0.0001 (OPTAX).
        epsilon_root: Added inside the square root, independent of epsilon_placement. optax. At least
            0. Default: 0.0.
    """

    learning_rate: float | None = None
    _: KW_ONLY
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: ByConvention[float] = None
    epsilon_placement: EpsilonPlacement = EpsilonPlacement.OUTSIDE
    bias_correction: ByConvention[BiasCorrection] = None
    weight_decay: ByConvention[float] = None
    epsilon_root: float = 0.0


@dataclass(frozen=True)
class NAdam(Optimizer, field="nadam"):
    """Adam with Nesterov momentum (Dozat, 2016).

    m = b1*m + (1 - b1)*g; v = b2*v + (1 - b2)*g^2; p -= lr*m^/(sqrt(v/(1 - b2^t)) + e) with

        SCHEDULED  m^ = mu(t+1)*m/(1 - P*mu(t+1)) + (1 - mu(t))*g/(1 - P)  (Keras, PyTorch)
        CONSTANT   m^ = b1*m/(1 - b1^(t+1)) + (1 - b1)*g/(1 - b1^t)        (optax)

    where mu(t) = b1*(1 - 0.5*0.96^(t*momentum_decay)) and P is the product of mu(1)..mu(t).
    `epsilon_root` is added below the root (optax).

    Attributes:
        learning_rate: Step size, unless the session has a schedule. At least 0. Default: 0.001
            (KERAS, OPTAX, LECTURE), 0.002 (TORCH).
        beta1: Exponential decay rate of the first moment. In [0, 1). Default: 0.9.
        beta2: Exponential decay rate of the second moment. In [0, 1). Default: 0.999.
        epsilon: Small constant in the denominator, for numerical stability. At least 0. Default: 1e-7
            (KERAS), 1e-8 (TORCH, OPTAX), 0.0 (LECTURE).
        form: Whether beta1 warms up. Default: SCHEDULED (KERAS, TORCH), CONSTANT (OPTAX, LECTURE).
        momentum_decay: Speed of beta1's warm-up; SCHEDULED only. At least 0. Default: 1.0 (KERAS,
            OPTAX, LECTURE), 0.004 (TORCH).
        epsilon_root: Added inside the square root. optax. At least 0. Default: 0.0.
    """

    learning_rate: float | None = None
    _: KW_ONLY
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: ByConvention[float] = None
    form: ByConvention[NAdamForm] = None
    momentum_decay: ByConvention[float] = None
    epsilon_root: float = 0.0


@dataclass(frozen=True)
class Adamax(Optimizer, field="adamax"):
    """Adamax (Kingma and Ba, 2015, arXiv:1412.6980, section 7.1).

    m = b1*m + (1 - b1)*g; then, by `form`,

        DENOMINATOR  u = max(b2*u, |g|); p -= lr/(1 - b1^t)*m/(u + e)    (Keras)
        GRADIENT     u = max(b2*u, |g| + e); p -= lr/(1 - b1^t)*m/u      (PyTorch, optax)

    Attributes:
        learning_rate: Step size, unless the session has a schedule. At least 0. Default: 0.001
            (KERAS, OPTAX, LECTURE), 0.002 (TORCH).
        beta1: Exponential decay rate of the first moment. In [0, 1). Default: 0.9.
        beta2: Exponential decay rate of the infinity norm. In [0, 1). Default: 0.999.
        epsilon: Small constant in the denominator, for numerical stability. At least 0. Default: 1e-7
            (KERAS), 1e-8 (TORCH, OPTAX), 0.0 (LECTURE).
        form: Where epsilon is added. Default: DENOMINATOR (KERAS, LECTURE), GRADIENT (TORCH, OPTAX).
    """

    learning_rate: float | None = None
    _: KW_ONLY
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: ByConvention[float] = None
    form: ByConvention[AdamaxForm] = None


@dataclass(frozen=True)
class Rprop(Optimizer, field="rprop"):
    """Resilient propagation (Riedmiller and Braun, 1993).

    Each element has its own step size s, and only the gradient's sign counts:

        the sign stayed  s = min(s*eta_plus, step_size_max); p -= s*sign(g)
        the sign turned  s = max(s*eta_minus, step_size_min); p stays, and the next sign is new
        it is new, or 0  p -= s*sign(g)

    As in PyTorch, `learning_rate` is what s starts from and nothing else, so that a session
    refuses a schedule, reduce_on_plateau or a group's factor for it.

    Attributes:
        learning_rate: The initial step size of each parameter. Greater than 0. Default: 0.01.
        eta_minus: Factor after a change of sign. In (0, 1). Default: 0.5.
        eta_plus: Factor after an unchanged sign. Greater than 1. Default: 1.2.
        step_size_min: Smallest step size. At least 0. Default: 1e-6.
        step_size_max: Largest step size. Greater than 0. Default: 50.0.
    """

    learning_rate: float | None = None
    _: KW_ONLY
    eta_minus: float = 0.5
    eta_plus: float = 1.2
    step_size_min: float = 1e-6
    step_size_max: float = 50.0


@dataclass(frozen=True)
class RAdam(Optimizer, field="radam"):
    """Rectified Adam (Liu et al., 2020, arXiv:1908.03265).

    m = b1*m + (1 - b1)*g; v = b2*v + (1 - b2)*g^2; m^ = m/(1 - b1^t). With
    rho = limit - 2*t*b2^t/(1 - b2^t), limit = 2/(1 - b2) - 1, the length of v's average,

        rho below `threshold`  p -= lr*m^
        FOLDED                 p -= lr*r*sqrt(1 - b2^t)*m^/(sqrt(v) + e)      (PyTorch)
        HATTED                 p -= lr*r*m^/(sqrt(v/(1 - b2^t)) + e)          (optax)

    where r^2 = (rho - 4)(rho - 2)*limit/((limit - 4)(limit - 2)*rho).
    `epsilon_root` is added below the root (optax).

    Attributes:
        learning_rate: Step size, unless the session has a schedule. At least 0. Default: 0.001.
        beta1: Exponential decay rate of the first moment. In [0, 1). Default: 0.9.
        beta2: Exponential decay rate of the second moment. In [0, 1). Default: 0.999.
        epsilon: Small constant in the denominator, for numerical stability. At least 0. Default:
            1e-8.
        epsilon_placement: Whether epsilon is added inside or outside the square root. Default:
            OUTSIDE.
        bias_correction: FOLDED adds epsilon to the uncorrected root (PyTorch), HATTED to the
            corrected one (optax). NONE is refused. One of FOLDED, HATTED. Default: FOLDED (KERAS, TORCH,
            LECTURE), HATTED (OPTAX).
        threshold: Minimum length of the average (rho_t) at which steps are rectified. At least 4.
            Default: 5.0.
        rectified_at_threshold: Whether a length equal to the threshold is rectified (optax) or only
            greater ones (PyTorch). Default: False (KERAS, TORCH, LECTURE), True (OPTAX).
        epsilon_root: Added inside the square root, independent of epsilon_placement. optax. At least
            0. Default: 0.0.
    """

    learning_rate: float | None = None
    _: KW_ONLY
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    epsilon_placement: EpsilonPlacement = EpsilonPlacement.OUTSIDE
    bias_correction: ByConvention[BiasCorrection] = None
    threshold: float = 5.0
    rectified_at_threshold: ByConvention[bool] = None
    epsilon_root: float = 0.0


@dataclass(frozen=True)
class Lion(Optimizer, field="lion"):
    """Lion (Chen et al., 2023, arXiv:2302.06675).

    p -= lr*sign(b1*m + (1 - b1)*g); m = b2*m + (1 - b2)*g.

    Attributes:
        learning_rate: Step size, unless the session has a schedule. At least 0. Default: 0.001.
        beta1: Weight of the average in the direction. In [0, 1). Default: 0.9.
        beta2: Exponential decay rate of the average. In [0, 1). Default: 0.99.
        weight_decay: p -= lr*weight_decay*p before the step. A decoupled weight decay of the session
            or of a parameter group replaces it. At least 0. Default: 0.0 (KERAS, TORCH, LECTURE), 0.001
            (OPTAX).
    """

    learning_rate: float | None = None
    _: KW_ONLY
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: ByConvention[float] = None


@dataclass(frozen=True)
class Yogi(Optimizer, field="yogi"):
    """Yogi (Zaheer et al., 2018, Adaptive Methods for Nonconvex Optimization).

    m = b1*m + (1 - b1)*g; v -= (1 - b2)*sign(v - g^2)*g^2;
    p -= lr*m^/(sqrt(v^) + e), m^ = m/(1 - b1^t), v^ = v/(1 - b2^t).

    As in optax both moments start at `initial_accumulator`, so that a weight without
    gradients moves a little; under LECTURE they start at 0. `epsilon_root` is added below the
    root (optax).

    Attributes:
        learning_rate: Step size, unless the session has a schedule. At least 0. Default: 0.001.
        beta1: Exponential decay rate of the first moment. In [0, 1). Default: 0.9.
        beta2: Exponential decay rate of the second moment. In [0, 1). Default: 0.999.
        epsilon: Small constant in the denominator, for numerical stability. At least 0. Default:
            0.001.
        epsilon_placement: Whether epsilon is added inside or outside the square root. Default:
            OUTSIDE.
        initial_accumulator: What both moments start from. At least 0. Default: 1e-6 (KERAS, TORCH,
            OPTAX), 0.0 (LECTURE).
        epsilon_root: Added inside the square root, independent of epsilon_placement. optax. At least
            0. Default: 0.0.
    """

    learning_rate: float | None = None
    _: KW_ONLY
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 0.001
    epsilon_placement: EpsilonPlacement = EpsilonPlacement.OUTSIDE
    initial_accumulator: ByConvention[float] = None
    epsilon_root: float = 0.0


@dataclass(frozen=True)
class AdaBelief(Optimizer, field="adabelief"):
    """AdaBelief (Zhuang et al., 2020, arXiv:2010.07468).

    m = b1*m + (1 - b1)*g; s = b2*s + (1 - b2)*(g - m)^2 + e_root;
    p -= lr*m^/(sqrt(s^) + e), m^ = m/(1 - b1^t), s^ = s/(1 - b2^t).

    Then Adam's step with corrected moments and s for the second.

    Attributes:
        learning_rate: Step size, unless the session has a schedule. At least 0. Default: 0.001.
        beta1: Exponential decay rate of the first moment. In [0, 1). Default: 0.9.
        beta2: Exponential decay rate of the variance. In [0, 1). Default: 0.999.
        epsilon: Added to the root. At least 0. Default: 1e-16.
        epsilon_root: Added to the variance in every step. At least 0. Default: 1e-16.
    """

    learning_rate: float | None = None
    _: KW_ONLY
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-16
    epsilon_root: float = 1e-16


@dataclass(frozen=True)
class Adan(Optimizer, field="adan"):
    """Adan (Xie et al., 2022, arXiv:2208.06677).

    With the gradient's change d = g - (the gradient before), 0 at first,

        m = b1*m + (1 - b1)*g;  c = b2*c + (1 - b2)*d;  n = b3*n + (1 - b3)*(g + (1 - b2)*d)^2
        p -= lr*(m^ + (1 - b2)*c^)/(sqrt(n^ + e_root) + e)

    where ^ divides by 1 - b^t. As in optax a beta is the share that is kept; the paper's is
    the rest.

    Attributes:
        learning_rate: Step size, unless the session has a schedule. At least 0. Default: 0.001.
        beta1: Exponential decay rate of the first moment. In [0, 1). Default: 0.98.
        beta2: Exponential decay rate of the averaged change. In [0, 1). Default: 0.92.
        beta3: Exponential decay rate of the second moment. In [0, 1). Default: 0.99.
        epsilon: Added to the root. At least 0. Default: 1e-8.
        epsilon_root: Added inside the square root. At least 0. Default: 1e-8.
    """

    learning_rate: float | None = None
    _: KW_ONLY
    beta1: float = 0.98
    beta2: float = 0.92
    beta3: float = 0.99
    epsilon: float = 1e-8
    epsilon_root: float = 1e-8


@dataclass(frozen=True)
class ADOPT(Optimizer, field="adopt"):
    """ADOPT (Taniguchi et al., 2024, arXiv:2411.02853).

    d = g/max(sqrt(v), e), clipped to (t - 1)^(1/4); m = b1*m + (1 - b1)*d; p -= lr*m;
    v = b2*v + (1 - b2)*g^2.

    So a gradient is never divided by its own magnitude. The first step only sets v = g^2.

    The first step only initializes the second moment.

    Attributes:
        learning_rate: Step size, unless the session has a schedule. At least 0. Default: 0.001.
        beta1: Exponential decay rate of the average. In [0, 1). Default: 0.9.
        beta2: Exponential decay rate of the second moment. In [0, 1). Default: 0.9999.
        epsilon: Lower bound of the root that a gradient is divided by. Greater than 0. Default: 1e-6.
        clipped: Whether divided gradients are clipped to (t - 1)^(1/4) in step t. Default: True.
    """

    learning_rate: float | None = None
    _: KW_ONLY
    beta1: float = 0.9
    beta2: float = 0.9999
    epsilon: float = 1e-6
    clipped: bool = True


@dataclass(frozen=True)
class FTRL(Optimizer, field="ftrl"):
    """FTRL-proximal (McMahan et al., 2013, Ad Click Prediction).

    n = a + g^2; z += g + 2*l2_shrinkage*p - (sqrt(n) - sqrt(a))/lr*p; a = n;
    p = (clip(z, -l1, l1) - z)/(sqrt(n)/lr + 2*l2 + beta/lr).

    p follows from z alone, so that it is exactly 0 where abs(z) <= l1, and a weight that has
    seen no gradient yet becomes 0 whatever it was. A step of rate 0 changes nothing.

    Attributes:
        learning_rate: Step size, unless the session has a schedule. At least 0. Default: 0.001.
        learning_rate_power: Exponent of the sum of squares in the learning rate; only -0.5 is
            supported. Default: -0.5.
        initial_accumulator: What the sum of squares starts from. At least 0. Default: 0.1.
        l1: Coefficient of the L1 term. At least 0. Default: 0.0.
        l2: Coefficient of the L2 term. At least 0. Default: 0.0.
        l2_shrinkage: Coefficient of an L2 penalty that is added to gradients. At least 0. Default:
            0.0.
        beta: Added to the root of the sum of squares. At least 0. Default: 0.0.
    """

    learning_rate: float | None = None
    _: KW_ONLY
    learning_rate_power: float = -0.5
    initial_accumulator: float = 0.1
    l1: float = 0.0
    l2: float = 0.0
    l2_shrinkage: float = 0.0
    beta: float = 0.0


@dataclass(frozen=True)
class FedAvgM(Optimizer, field="fed_avg_m"):
    """Federated averaging with server momentum (Hsu, Qi and Brown, 2019, arXiv:1909.06335).

    b = mu*b + g; p -= lr*b, where g is the pseudo-gradient.

    That is p - q, with q the mean of what the clients made of p: the Delta of the papers
    with its sign turned.

    Attributes:
        learning_rate: The server's step size, unless the session has a schedule. At least 0. Default:
            1.0.
        momentum: Momentum: decay rate of the buffer. In [0, 1]. Default: 0.9.
    """

    learning_rate: float | None = None
    _: KW_ONLY
    momentum: float = 0.9


@dataclass(frozen=True)
class FedAdagrad(Optimizer, field="fed_adagrad"):
    """FedAdagrad (Reddi et al., 2021, Adaptive Federated Optimization, arXiv:2003.00295).

    m = b1*m + (1 - b1)*g; a += g^2; p -= lr*m/(sqrt(a) + tau), where g is the
    pseudo-gradient (see `FedAvgM`).

    The paper starts a at tau^2 or above, Flower at 0.

    Attributes:
        learning_rate: The server's step size, unless the session has a schedule. At least 0. Default:
            0.1.
        beta1: Exponential decay rate of the first moment. In [0, 1). Default: 0.0.
        tau: Added to the root: the degree of adaptivity, larger for less. Greater than 0. Default:
            1e-9.
        initial_accumulator: What the sum of squares starts from. At least 0. Default: 0.0.
    """

    learning_rate: float | None = None
    _: KW_ONLY
    beta1: float = 0.0
    tau: float = 1e-9
    initial_accumulator: float = 0.0


@dataclass(frozen=True)
class FedAdam(Optimizer, field="fed_adam"):
    """FedAdam (Reddi et al., 2021, Adaptive Federated Optimization, arXiv:2003.00295).

    m = b1*m + (1 - b1)*g; v = b2*v + (1 - b2)*g^2; then, by `bias_correction`, g being the
    pseudo-gradient (see `FedAvgM`),

        NONE          p -= lr*m/(sqrt(v) + tau)                                         (the paper)
        FOLDED_AHEAD  p -= lr*sqrt(1 - b2^(t+1))/(1 - b1^(t+1)) * m/(sqrt(v) + tau)     (Flower)

    Flower's is Adam's FOLDED, a step ahead of it. The paper starts v at tau^2 or above, Flower
    at 0.

    Attributes:
        learning_rate: The server's step size, unless the session has a schedule. At least 0. Default:
            0.1.
        beta1: Exponential decay rate of the first moment. In [0, 1). Default: 0.9.
        beta2: Exponential decay rate of the second moment. In [0, 1). Default: 0.99.
        tau: Added to the root: the degree of adaptivity, larger for less. Greater than 0. Default:
            1e-9.
        initial_accumulator: What the second moment starts from. At least 0. Default: 0.0.
        bias_correction: How the rate is corrected for moments that are initialized with zero.
            Default: NONE.
    """

    learning_rate: float | None = None
    _: KW_ONLY
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-9
    initial_accumulator: float = 0.0
    bias_correction: FedAdamCorrection = FedAdamCorrection.NONE


@dataclass(frozen=True)
class FedYogi(Optimizer, field="fed_yogi"):
    """FedYogi (Reddi et al., 2021, Adaptive Federated Optimization, arXiv:2003.00295).

    FedAdam without a correction, with v -= (1 - b2)*sign(v - g^2)*g^2.

    Attributes:
        learning_rate: The server's step size, unless the session has a schedule. At least 0. Default:
            0.01.
        beta1: Exponential decay rate of the first moment. In [0, 1). Default: 0.9.
        beta2: Exponential decay rate of the second moment. In [0, 1). Default: 0.99.
        tau: Added to the root: the degree of adaptivity, larger for less. Greater than 0. Default:
            0.001.
        initial_accumulator: What the second moment starts from. At least 0. Default: 0.0.
    """

    learning_rate: float | None = None
    _: KW_ONLY
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 0.001
    initial_accumulator: float = 0.0


@dataclass(frozen=True)
class ScheduleFreeSGD(Optimizer, field="schedule_free_sgd"):
    """Schedule-free gradient descent (Defazio et al., 2024, The Road Less Scheduled, arXiv:2405.15682).

    z -= lr*(g + wd*y); x = (1 - c)*x + c*z; c = w/(sum of all w so far),
    w = (largest rate so far)^weight_lr_power; g is taken at y = (1 - b1)*z + b1*x.

    The parameters are x, the point to evaluate and to keep, and y is the look-ahead point.
    (optax keeps y and computes x from it; the paths are the same.) Instead of z the state
    holds z - x, which starts at 0 whatever the parameters are.

    Gradients are computed at y = (1 - beta1)*z + beta1*x: clients pull it with ParameterPoint.LOOKAHEAD.

    Attributes:
        learning_rate: Step size, unless the session has a schedule. At least 0. Default: 1.0.
        beta1: Weight of x in the point at which gradients are computed. In [0, 1]. Default: 0.9.
        weight_lr_power: Steps are averaged with the weight rate^weight_lr_power, by the largest rate
            so far. At least 0. Default: 2.0.
        weight_decay: weight_decay*y is added to the gradient. At least 0. Default: 0.0.
    """

    learning_rate: float | None = None
    _: KW_ONLY
    beta1: float = 0.9
    weight_lr_power: float = 2.0
    weight_decay: float = 0.0


@dataclass(frozen=True)
class ScheduleFreeAdamW(Optimizer, field="schedule_free_adamw"):
    """Schedule-free AdamW (Defazio et al., 2024, The Road Less Scheduled, arXiv:2405.15682).

    Schedule-free gradient descent with g/(sqrt(v/(1 - b2^t)) + e) + wd*y for the
    direction, v = b2*v + (1 - b2)*g^2.

    The decay pulls at y and moves z, so it is part of the rule and no decoupled decay of the
    parameters.

    Attributes:
        learning_rate: Step size, unless the session has a schedule. At least 0. Default: 0.0025.
        beta1: Weight of x in the point at which gradients are computed. In [0, 1]. Default: 0.9.
        beta2: Exponential decay rate of the second moment. In [0, 1). Default: 0.999.
        epsilon: Small constant in the denominator, for numerical stability. At least 0. Default:
            1e-8.
        weight_lr_power: Steps are averaged with the weight rate^weight_lr_power, by the largest rate
            so far. At least 0. Default: 2.0.
        weight_decay: weight_decay*y is added to the direction. At least 0. Default: 0.0.
    """

    learning_rate: float | None = None
    _: KW_ONLY
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_lr_power: float = 2.0
    weight_decay: float = 0.0


@dataclass(frozen=True)
class LAMB(Optimizer, field="lamb"):
    """LAMB (You et al., 2020, arXiv:1904.00962).

    m and v as in Adam, both corrected; u = m^/(sqrt(v^) + e) + weight_decay*p; then

    p -= lr*|p|/|u| * u, where the norms run over each tensor and a ratio with a 0 is 1.

    `weight_decay` stands inside the ratio (the paper, optax). Keras decays outside of it:
    that is the session's decoupled weight decay. `epsilon_root` is added below the root (optax).

    Attributes:
        learning_rate: Step size, unless the session has a schedule. At least 0. Default: 0.001.
        beta1: Exponential decay rate of the first moment. In [0, 1). Default: 0.9.
        beta2: Exponential decay rate of the second moment. In [0, 1). Default: 0.999.
        epsilon: Small constant in the denominator, for numerical stability. At least 0. Default: 1e-7
            (KERAS), 1e-6 (TORCH, OPTAX), 0.0 (LECTURE).
        weight_decay: Decay inside the trust ratio: weight_decay*p is added to the step before its
            norm is taken. optax. Keras decays outside: that is the session's decoupled weight decay. At
            least 0. Default: 0.0.
        epsilon_root: Added inside the square root. optax. At least 0. Default: 0.0.
    """

    learning_rate: float | None = None
    _: KW_ONLY
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: ByConvention[float] = None
    weight_decay: float = 0.0
    epsilon_root: float = 0.0


@dataclass(frozen=True)
class LARS(Optimizer, field="lars"):
    """LARS (You, Gitman and Ginsburg, 2017, arXiv:1708.03888).

    d = g + weight_decay*p; velocity = mu*velocity - lr*r*d; p += velocity, where

    r = trust_coefficient*|p|/(|d| + e) over each tensor, and 1 where a norm is 0. With
    `nesterov` p += mu*velocity - lr*r*d. (optax)

    Attributes:
        learning_rate: Step size, unless the session has a schedule. At least 0. Default: 0.01.
        momentum: Momentum: decay rate of the velocity. In [0, 1). Default: 0.9.
        weight_decay: Decay, added to the gradient before its norm is taken. At least 0. Default: 0.0.
        trust_coefficient: Factor of the trust ratio. Greater than 0. Default: 0.001.
        epsilon: Added to the norm in the denominator. At least 0. Default: 0.0.
        nesterov: Whether the step looks ahead: p += mu*v - lr*ratio*(g + weight_decay*p). Default:
            False.
    """

    learning_rate: float | None = None
    _: KW_ONLY
    momentum: float = 0.9
    weight_decay: float = 0.0
    trust_coefficient: float = 0.001
    epsilon: float = 0.0
    nesterov: bool = False


@dataclass(frozen=True)
class Adafactor(Optimizer, field="adafactor"):
    """Adafactor (Shazeer and Stern, 2018, arXiv:1804.04235).

    With decay d = t^beta2_decay, row and column averages over two dimensions

    r = (1 - d)*r + d*mean_of_rows(g^2); c = (1 - d)*c + d*mean_of_columns(g^2)
    v = r*c/mean(r), or v = (1 - d)*v + d*g^2 for what has fewer dimensions or smaller ones
    u = g/sqrt(v); u /= max(1, rms(u)/clip_threshold)
    p -= max(epsilon2, rms(p))*(min(lr, 1/sqrt(t)) if `relative_step`, else lr) * u

    The two dimensions are the last, or the largest if `factor_largest`; each must be at least
    `min_dim_size_to_factor`.

        SQUARES  epsilon1 is added to g^2                                 (Keras, optax, the paper)
        FLOOR    mean(r) is at least epsilon1, and v at least its square         (PyTorch)

    FLOOR with an epsilon1 of 0 takes the dtype's own. rms(p) is taken after decoupled
    decay under SQUARES, as Keras does, and before it under FLOOR, as PyTorch does.

    Attributes:
        learning_rate: Relative step size, or its upper bound under relative_step, unless the session
            has a schedule. At least 0. Default: 0.001 (KERAS, LECTURE), 0.01 (TORCH), 1.0 (OPTAX).
        beta2_decay: The averages' weight of the new value at step t is t^beta2_decay. Less than 0.
            Default: -0.8.
        epsilon1: Lower bound of second moments, for numerical stability; under FLOOR, 0 selects the
            dtype's machine epsilon. At least 0. Default: 1e-30 (KERAS, OPTAX, LECTURE), 0.0 (TORCH).
        epsilon2: Lower bound of the root mean square of a parameter, which the step is scaled by. At
            least 0. Default: 0.001.
        clip_threshold: Maximum root mean square of a step; larger ones are scaled down. Greater than
            0. Default: 1.0.
        form: Where epsilon1 enters. Default: SQUARES (KERAS, OPTAX, LECTURE), FLOOR (TORCH).
        min_dim_size_to_factor: Minimum extent of both dimensions for second moments to be factored; 0
            factors every tensor with two or more dimensions. At least 0. Default: 0 (KERAS, TORCH,
            LECTURE), 128 (OPTAX).
        factor_largest: Whether the averages are over the two largest dimensions rather than the last
            two. Default: False (KERAS, TORCH, LECTURE), True (OPTAX).
        relative_step: Whether the step size is at most 1/sqrt(t). Default: True (KERAS, TORCH,
            LECTURE), False (OPTAX).
    """

    learning_rate: float | None = None
    _: KW_ONLY
    beta2_decay: float = -0.8
    epsilon1: ByConvention[float] = None
    epsilon2: float = 0.001
    clip_threshold: float = 1.0
    form: ByConvention[AdafactorForm] = None
    min_dim_size_to_factor: ByConvention[int] = None
    factor_largest: ByConvention[bool] = None
    relative_step: ByConvention[bool] = None


@dataclass(frozen=True)
class Muon(Optimizer, field="muon"):
    """Muon (Jordan et al., 2024), with AdamW for what is not a matrix.

    For a matrix of A rows and B columns

    m = mu*m + (1 - mu)*g; u = mu*m + (1 - mu)*g if `nesterov`, else m
    p -= lr*scale*orthogonalized(u)

        TORCH  |u| is at least `epsilon`; scale = sqrt(max(1, A/B))
        KERAS  `epsilon` is added to |u|/(1 - mu); scale = 1
        OPTAX  u = mu*m/(1 - mu^(t+1)) + (1 - mu)*g/(1 - mu^t) if `nesterov`, else m/(1 - mu^t);
               `epsilon` is added to |u|; scale = sqrt(max(1, B/A))

    and scale = rms_rate*sqrt(max(A, B)) where `rms_rate` is above 0 (Keras; Liu et al., 2025,
    arXiv:2502.16982). Keras' momentum, mu*m + g, is m/(1 - mu), which changes nothing else.

    Every other tensor takes Adam's step with bias-corrected moments, `adam_epsilon_root` below
    its root: folded as in Keras' Adam under KERAS, with NAdam's look-ahead under OPTAX if
    `nesterov`. Decoupled decay goes before both. PyTorch iterates in bfloat16 and leaves other
    tensors to the caller; here the iteration runs in the parameter's dtype.

    Attributes:
        learning_rate: Step size, unless the session has a schedule. At least 0. Default: 0.001.
        weight_decay: p -= lr*weight_decay*p before the step. A decoupled weight decay of the session
            or of a parameter group replaces it. At least 0. Default: 0.004 (KERAS, LECTURE), 0.1 (TORCH),
            0.0 (OPTAX).
        momentum: Decay rate of the momentum. In [0, 1). Default: 0.95.
        nesterov: Whether the step looks ahead. Default: True.
        iterations: Number of Newton-Schulz iterations. In [0, 99]. Default: 5.
        epsilon: Lower bound of the norm that the momentum is divided by (TORCH), or a constant that
            is added to it. Greater than 0. Default: 1e-7 (KERAS, TORCH, LECTURE), 1e-8 (OPTAX).
        adam_learning_rate_factor: Factor of the step size of tensors that AdamW updates. At least 0.
            Default: 1.0.
        adam_beta1: AdamW's exponential decay rate of the first moment. In [0, 1). Default: 0.9.
        adam_beta2: AdamW's exponential decay rate of the second moment. In [0, 1). Default: 0.999.
        adam_epsilon: Small constant in AdamW's denominator, for numerical stability. Greater than 0.
            Default: 1e-7 (KERAS, LECTURE), 1e-8 (TORCH, OPTAX).
        adam_epsilon_root: Added inside AdamW's square root. optax. At least 0. Default: 0.0.
        form: The framework whose form of Muon is used. Default: KERAS (KERAS, LECTURE), TORCH
            (TORCH), OPTAX (OPTAX).
        rms_rate: If greater than 0, the update of a matrix of A rows and B columns is scaled by
            rms_rate*sqrt(max(A, B)), under every form (PyTorch's match_rms_adamw is 0.2; optax'
            consistent_rms). If 0, the form determines the scale. At least 0. Default: 0.2 (KERAS,
            LECTURE), 0.0 (TORCH, OPTAX).
    """

    learning_rate: float | None = None
    _: KW_ONLY
    weight_decay: ByConvention[float] = None
    momentum: float = 0.95
    nesterov: bool = True
    iterations: int = 5
    epsilon: ByConvention[float] = None
    adam_learning_rate_factor: float = 1.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: ByConvention[float] = None
    adam_epsilon_root: float = 0.0
    form: ByConvention[MuonForm] = None
    rms_rate: ByConvention[float] = None


@dataclass(frozen=True)
class Prodigy(Optimizer, field="prodigy"):
    """Prodigy (Mishchenko and Defazio, 2023, arXiv:2306.06101).

    With the estimate d, lr' = d*lr*sqrt(1 - b2^t)/(1 - b1^t) and w = d (safeguarded) or lr',

    m = b1*m + (1 - b1)*d*g; v = b2*v + (1 - b2)*(d*g)^2; s = b3*s + w/d0*d*g
    n = b3*n + d/d0*lr'*sum(g*(p0 - p)); d = max(d, coefficient*n/sum(|s|))
    p -= lr'*(weight_decay*p + m/(sqrt(v) + d*e))

    where p0 is where p started, d0 the first d, and the sums run over the group. (optax)

    Attributes:
        learning_rate: Factor of the estimated step size, unless the session has a schedule. At least
            0. Default: 1.0.
        beta1: Exponential decay rate of the first moment. In [0, 1). Default: 0.9.
        beta2: Exponential decay rate of the second moment. In [0, 1). Default: 0.999.
        beta3: Exponential decay rate of the sums that the estimate is computed from; the square root
            of beta2 when 0. In [0, 1). Default: 0.0.
        epsilon: Small constant in the denominator, for numerical stability; multiplied by the
            estimate. Greater than 0. Default: 1e-8.
        initial_estimate: The first estimate. Greater than 0. Default: 1e-6.
        estimate_coefficient: Factor of every later estimate. Greater than 0. Default: 1.0.
        weight_decay: Decoupled weight decay, scaled by the estimated step size. At least 0. Default:
            0.0.
        safeguard_warmup: Whether the sums exclude the learning rate, for warm-ups. Default: False.
    """

    learning_rate: float | None = None
    _: KW_ONLY
    beta1: float = 0.9
    beta2: float = 0.999
    beta3: float = 0.0
    epsilon: float = 1e-8
    initial_estimate: float = 1e-6
    estimate_coefficient: float = 1.0
    weight_decay: float = 0.0
    safeguard_warmup: bool = False
