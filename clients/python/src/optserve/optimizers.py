"""Optimizers.

Written by tools/generate_specs.py from optserve/v1/optimizer_spec.proto; change it there.
"""

from __future__ import annotations

from dataclasses import dataclass

from optserve.enums import (
    AdamaxForm,
    AmsgradMaximum,
    BiasCorrection,
    Convention,
    EpsilonPlacement,
    MomentumForm,
    NadamForm,
    NesterovForm,
)
from optserve.spec import Choice
from optserve.v1 import optimizer_spec_pb2


@dataclass(frozen=True, kw_only=True)
class Optimizer(Choice, message=optimizer_spec_pb2.OptimizerSpec, oneof="algorithm"):
    """Which optimizer a session runs, and with which hyperparameters.

    Fields left unset take the default of the convention; a server answers with every field filled.
    Defaults and ranges: CapabilitiesService.GetCapabilities.

    Attributes:
        convention: Whose defaults fill the unset fields.
    """

    convention: Convention | None = None


@dataclass(frozen=True, kw_only=True)
class Sgd(Optimizer, field="sgd"):
    """p -= lr*g.

    Attributes:
        learning_rate: Step size; replaced by the session's schedule where there is one.
    """

    learning_rate: float | None = None


@dataclass(frozen=True, kw_only=True)
class Momentum(Optimizer, field="momentum"):
    """SGD with momentum.

    Attributes:
        learning_rate: Step size; replaced by the session's schedule where there is one.
        momentum: Share of the last velocity that is kept.
        dampening: Share of the gradient that is held back after the first step; heavy ball only.
        form: How momentum accumulates.
    """

    learning_rate: float | None = None
    momentum: float | None = None
    dampening: float | None = None
    form: MomentumForm | None = None


@dataclass(frozen=True, kw_only=True)
class Nesterov(Optimizer, field="nesterov"):
    """Nesterov's accelerated gradient.

    Attributes:
        learning_rate: Step size; replaced by the session's schedule where there is one.
        momentum: Share of the last velocity that is kept.
        form: How the gradient looks ahead.
    """

    learning_rate: float | None = None
    momentum: float | None = None
    form: NesterovForm | None = None


@dataclass(frozen=True, kw_only=True)
class Adagrad(Optimizer, field="adagrad"):
    """a += g^2; p -= lr*g/sqrt(a), with epsilon inside or outside the root.

    Attributes:
        learning_rate: Step size; replaced by the session's schedule where there is one.
        epsilon: Keeps the denominator from zero.
        epsilon_placement: Where epsilon stands.
        initial_accumulator: What the sum of squares starts from.
        learning_rate_decay: The step size is divided by 1 + (t - 1)*learning_rate_decay.
    """

    learning_rate: float | None = None
    epsilon: float | None = None
    epsilon_placement: EpsilonPlacement | None = None
    initial_accumulator: float | None = None
    learning_rate_decay: float | None = None


@dataclass(frozen=True, kw_only=True)
class Rmsprop(Optimizer, field="rmsprop"):
    """v = rho*v + (1 - rho)*g^2; p -= lr*g/sqrt(v), with options.

    Attributes:
        learning_rate: Step size; replaced by the session's schedule where there is one.
        rho: Share of the last average that is kept.
        momentum: Share of the last velocity that is kept; 0 keeps no velocity.
        epsilon: Keeps the denominator from zero.
        epsilon_placement: Where epsilon stands.
        centered: Whether the variance is taken around the mean gradient.
        momentum_form: CLASSICAL keeps the learning rate inside the velocity (Keras, optax),
            HEAVY_BALL outside (PyTorch). EMA is refused.
    """

    learning_rate: float | None = None
    rho: float | None = None
    momentum: float | None = None
    epsilon: float | None = None
    epsilon_placement: EpsilonPlacement | None = None
    centered: bool | None = None
    momentum_form: MomentumForm | None = None


@dataclass(frozen=True, kw_only=True)
class Adadelta(Optimizer, field="adadelta"):
    """v = rho*v + (1 - rho)*g^2.

    d = sqrt(u + epsilon)/sqrt(v + epsilon)*g; u = rho*u + (1 - rho)*d^2; p -= lr*d.

    Attributes:
        learning_rate: Step size; replaced by the session's schedule where there is one.
        rho: Share of the last averages that is kept.
        epsilon: Keeps both roots from zero.
    """

    learning_rate: float | None = None
    rho: float | None = None
    epsilon: float | None = None


@dataclass(frozen=True, kw_only=True)
class Adam(Optimizer, field="adam"):
    """Adam.

    Attributes:
        learning_rate: Step size; replaced by the session's schedule where there is one.
        beta_1: Share of the last first moment that is kept.
        beta_2: Share of the last second moment that is kept.
        epsilon: Keeps the denominator from zero.
        epsilon_placement: Where epsilon stands.
        bias_correction: How the moments are corrected.
    """

    learning_rate: float | None = None
    beta_1: float | None = None
    beta_2: float | None = None
    epsilon: float | None = None
    epsilon_placement: EpsilonPlacement | None = None
    bias_correction: BiasCorrection | None = None


@dataclass(frozen=True, kw_only=True)
class Amsgrad(Optimizer, field="amsgrad"):
    """AMSGrad: Adam whose second moment never falls.

    Attributes:
        learning_rate: Step size; replaced by the session's schedule where there is one.
        beta_1: Share of the last first moment that is kept.
        beta_2: Share of the last second moment that is kept.
        epsilon: Keeps the denominator from zero.
        epsilon_placement: Where epsilon stands.
        bias_correction: How the moments are corrected where the maximum leaves a choice: RAW.
        maximum: Over what the maximum runs.
    """

    learning_rate: float | None = None
    beta_1: float | None = None
    beta_2: float | None = None
    epsilon: float | None = None
    epsilon_placement: EpsilonPlacement | None = None
    bias_correction: BiasCorrection | None = None
    maximum: AmsgradMaximum | None = None


@dataclass(frozen=True, kw_only=True)
class Adamw(Optimizer, field="adamw"):
    """Adam with decoupled weight decay.

    Attributes:
        learning_rate: Step size; replaced by the session's schedule where there is one.
        beta_1: Share of the last first moment that is kept.
        beta_2: Share of the last second moment that is kept.
        epsilon: Keeps the denominator from zero.
        epsilon_placement: Where epsilon stands.
        bias_correction: How the moments are corrected.
        weight_decay: p -= lr*weight_decay*p before the step. A weight decay stated by the session or
            by a parameter group takes its place.
    """

    learning_rate: float | None = None
    beta_1: float | None = None
    beta_2: float | None = None
    epsilon: float | None = None
    epsilon_placement: EpsilonPlacement | None = None
    bias_correction: BiasCorrection | None = None
    weight_decay: float | None = None


@dataclass(frozen=True, kw_only=True)
class Nadam(Optimizer, field="nadam"):
    """Adam with Nesterov momentum.

    Attributes:
        learning_rate: Step size; replaced by the session's schedule where there is one.
        beta_1: Share of the last first moment that is kept.
        beta_2: Share of the last second moment that is kept.
        epsilon: Keeps the denominator from zero.
        form: Whether beta_1 warms up.
        momentum_decay: Speed of beta_1's warm-up; SCHEDULED only.
    """

    learning_rate: float | None = None
    beta_1: float | None = None
    beta_2: float | None = None
    epsilon: float | None = None
    form: NadamForm | None = None
    momentum_decay: float | None = None


@dataclass(frozen=True, kw_only=True)
class Adamax(Optimizer, field="adamax"):
    """Adamax.

    Attributes:
        learning_rate: Step size; replaced by the session's schedule where there is one.
        beta_1: Share of the last first moment that is kept.
        beta_2: Share of the last infinity norm that is kept.
        epsilon: Keeps the denominator from zero.
        form: Where epsilon is added.
    """

    learning_rate: float | None = None
    beta_1: float | None = None
    beta_2: float | None = None
    epsilon: float | None = None
    form: AdamaxForm | None = None


@dataclass(frozen=True, kw_only=True)
class Rprop(Optimizer, field="rprop"):
    """Resilient propagation.

    each parameter has its own step size, which grows while the gradient keeps its sign and shrinks when
    it turns.

    Attributes:
        learning_rate: The step size that each parameter starts with.
        eta_minus: Factor when the sign turned.
        eta_plus: Factor when the sign stayed.
        step_size_min: Smallest step size.
        step_size_max: Largest step size.
    """

    learning_rate: float | None = None
    eta_minus: float | None = None
    eta_plus: float | None = None
    step_size_min: float | None = None
    step_size_max: float | None = None
