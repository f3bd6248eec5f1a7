"""Optimizers.

Written by tools/generate_specs.py from optserve/v1/optimizer_spec.proto; change it there.
"""

from __future__ import annotations

from dataclasses import dataclass

from optserve.enums import (
    AdafactorForm,
    AdamaxForm,
    AmsgradMaximum,
    BiasCorrection,
    Convention,
    EpsilonPlacement,
    FedAdamCorrection,
    MomentumForm,
    MuonForm,
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
        epsilon_root: Added below the root, wherever epsilon stands. optax.
    """

    learning_rate: float | None = None
    beta_1: float | None = None
    beta_2: float | None = None
    epsilon: float | None = None
    epsilon_placement: EpsilonPlacement | None = None
    bias_correction: BiasCorrection | None = None
    epsilon_root: float | None = None


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
        epsilon_root: Added below the root, wherever epsilon stands. optax.
    """

    learning_rate: float | None = None
    beta_1: float | None = None
    beta_2: float | None = None
    epsilon: float | None = None
    epsilon_placement: EpsilonPlacement | None = None
    bias_correction: BiasCorrection | None = None
    maximum: AmsgradMaximum | None = None
    epsilon_root: float | None = None


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
        epsilon_root: Added below the root, wherever epsilon stands. optax.
    """

    learning_rate: float | None = None
    beta_1: float | None = None
    beta_2: float | None = None
    epsilon: float | None = None
    epsilon_placement: EpsilonPlacement | None = None
    bias_correction: BiasCorrection | None = None
    weight_decay: float | None = None
    epsilon_root: float | None = None


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
        epsilon_root: Added below the root. optax.
    """

    learning_rate: float | None = None
    beta_1: float | None = None
    beta_2: float | None = None
    epsilon: float | None = None
    form: NadamForm | None = None
    momentum_decay: float | None = None
    epsilon_root: float | None = None


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


@dataclass(frozen=True, kw_only=True)
class Radam(Optimizer, field="radam"):
    """Rectified Adam.

    p -= lr*m/(1 - beta_1^t) until the average of squares is long enough, then Adam's step times a
    rectification.

    Attributes:
        learning_rate: Step size; replaced by the session's schedule where there is one.
        beta_1: Share of the last first moment that is kept.
        beta_2: Share of the last second moment that is kept.
        epsilon: Keeps the denominator from zero.
        epsilon_placement: Where epsilon stands.
        bias_correction: FOLDED adds epsilon to the uncorrected root (PyTorch), HATTED to the
            corrected one (optax). NONE is refused.
        threshold: The length of the average from which steps are rectified.
        rectified_at_threshold: Whether that length itself is rectified (optax) or only what exceeds
            it (PyTorch).
        epsilon_root: Added below the root, wherever epsilon stands. optax.
    """

    learning_rate: float | None = None
    beta_1: float | None = None
    beta_2: float | None = None
    epsilon: float | None = None
    epsilon_placement: EpsilonPlacement | None = None
    bias_correction: BiasCorrection | None = None
    threshold: float | None = None
    rectified_at_threshold: bool | None = None
    epsilon_root: float | None = None


@dataclass(frozen=True, kw_only=True)
class Lion(Optimizer, field="lion"):
    """p -= lr*sign(beta_1*m + (1 - beta_1)*g); m = beta_2*m + (1 - beta_2)*g.

    Attributes:
        learning_rate: Step size; replaced by the session's schedule where there is one.
        beta_1: Share of the average in the direction.
        beta_2: Share of the last average that is kept.
        weight_decay: p -= lr*weight_decay*p before the step. A weight decay stated by the session or
            by a parameter group takes its place.
    """

    learning_rate: float | None = None
    beta_1: float | None = None
    beta_2: float | None = None
    weight_decay: float | None = None


@dataclass(frozen=True, kw_only=True)
class Yogi(Optimizer, field="yogi"):
    """v -= (1 - beta_2)*sign(v - g^2)*g^2, then Adam's step with corrected moments.

    Attributes:
        learning_rate: Step size; replaced by the session's schedule where there is one.
        beta_1: Share of the last first moment that is kept.
        beta_2: How fast the second moment follows.
        epsilon: Keeps the denominator from zero.
        epsilon_placement: Where epsilon stands.
        initial_accumulator: What both moments start from.
        epsilon_root: Added below the root, wherever epsilon stands. optax.
    """

    learning_rate: float | None = None
    beta_1: float | None = None
    beta_2: float | None = None
    epsilon: float | None = None
    epsilon_placement: EpsilonPlacement | None = None
    initial_accumulator: float | None = None
    epsilon_root: float | None = None


@dataclass(frozen=True, kw_only=True)
class Adabelief(Optimizer, field="adabelief"):
    """s = beta_2*s + (1 - beta_2)*(g - m)^2 + epsilon_root.

    Then Adam's step with corrected moments and s for the second.

    Attributes:
        learning_rate: Step size; replaced by the session's schedule where there is one.
        beta_1: Share of the last first moment that is kept.
        beta_2: Share of the last variance that is kept.
        epsilon: Added to the root.
        epsilon_root: Added to the variance in every step.
    """

    learning_rate: float | None = None
    beta_1: float | None = None
    beta_2: float | None = None
    epsilon: float | None = None
    epsilon_root: float | None = None


@dataclass(frozen=True, kw_only=True)
class Adan(Optimizer, field="adan"):
    """Adan: averages of the gradient, of its change d, and of (g + (1 - beta_2)*d)^2.

    Attributes:
        learning_rate: Step size; replaced by the session's schedule where there is one.
        beta_1: Share of the last first moment that is kept.
        beta_2: Share of the last averaged change that is kept.
        beta_3: Share of the last second moment that is kept.
        epsilon: Added to the root.
        epsilon_root: Added below the root.
    """

    learning_rate: float | None = None
    beta_1: float | None = None
    beta_2: float | None = None
    beta_3: float | None = None
    epsilon: float | None = None
    epsilon_root: float | None = None


@dataclass(frozen=True, kw_only=True)
class Adopt(Optimizer, field="adopt"):
    """ADOPT: each gradient is divided by the root of the second moment before it, clipped, and averaged.

    The first step only measures.

    Attributes:
        learning_rate: Step size; replaced by the session's schedule where there is one.
        beta_1: Share of the last average that is kept.
        beta_2: Share of the last second moment that is kept.
        epsilon: The least root that a gradient is divided by.
        clipped: Whether divided gradients are clipped to (t - 1)^(1/4) in step t.
    """

    learning_rate: float | None = None
    beta_1: float | None = None
    beta_2: float | None = None
    epsilon: float | None = None
    clipped: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Ftrl(Optimizer, field="ftrl"):
    """FTRL-proximal.

    parameters are computed from a sum of gradients alone, and are exactly 0 where l1 outweighs it. A
    weight that has seen no gradient becomes 0.

    Attributes:
        learning_rate: Step size; replaced by the session's schedule where there is one.
        learning_rate_power: Power by which the rate falls with the sum of squares; only -0.5 is
            supported.
        initial_accumulator: What the sum of squares starts from.
        l1: Strength of the L1 term.
        l2: Strength of the L2 term.
        l2_shrinkage: Strength of an L2 penalty that is added to gradients.
        beta: Added to the root of the sum of squares.
    """

    learning_rate: float | None = None
    learning_rate_power: float | None = None
    initial_accumulator: float | None = None
    l1: float | None = None
    l2: float | None = None
    l2_shrinkage: float | None = None
    beta: float | None = None


@dataclass(frozen=True, kw_only=True)
class FedAvgM(Optimizer, field="fed_avg_m"):
    """b = momentum*b + g; p -= lr*b, where g is the pseudo-gradient: the parameters minus the clients' mean.

    Attributes:
        learning_rate: The server's step size; replaced by the session's schedule where there is one.
        momentum: Share of the last buffer that is kept.
    """

    learning_rate: float | None = None
    momentum: float | None = None


@dataclass(frozen=True, kw_only=True)
class FedAdagrad(Optimizer, field="fed_adagrad"):
    """m = beta_1*m + (1 - beta_1)*g; v += g^2; p -= lr*m/(sqrt(v) + tau), where g is the pseudo-gradient.

    the parameters minus the clients' mean.

    Attributes:
        learning_rate: The server's step size; replaced by the session's schedule where there is one.
        beta_1: Share of the last first moment that is kept.
        tau: Added to the root: how little the method adapts.
        initial_accumulator: What the sum of squares starts from.
    """

    learning_rate: float | None = None
    beta_1: float | None = None
    tau: float | None = None
    initial_accumulator: float | None = None


@dataclass(frozen=True, kw_only=True)
class FedAdam(Optimizer, field="fed_adam"):
    """m = beta_1*m + (1 - beta_1)*g.

    v = beta_2*v + (1 - beta_2)*g^2; p -= lr*m/(sqrt(v) + tau), where g is the pseudo-gradient. the
    parameters minus the clients' mean.

    Attributes:
        learning_rate: The server's step size; replaced by the session's schedule where there is one.
        beta_1: Share of the last first moment that is kept.
        beta_2: Share of the last second moment that is kept.
        tau: Added to the root: how little the method adapts.
        initial_accumulator: What the second moment starts from.
        bias_correction: How the rate is corrected for moments that start at zero.
    """

    learning_rate: float | None = None
    beta_1: float | None = None
    beta_2: float | None = None
    tau: float | None = None
    initial_accumulator: float | None = None
    bias_correction: FedAdamCorrection | None = None


@dataclass(frozen=True, kw_only=True)
class FedYogi(Optimizer, field="fed_yogi"):
    """As FedAdam without a correction, with v -= (1 - beta_2)*sign(v - g^2)*g^2.

    Attributes:
        learning_rate: The server's step size; replaced by the session's schedule where there is one.
        beta_1: Share of the last first moment that is kept.
        beta_2: How fast the second moment follows.
        tau: Added to the root: how little the method adapts.
        initial_accumulator: What the second moment starts from.
    """

    learning_rate: float | None = None
    beta_1: float | None = None
    beta_2: float | None = None
    tau: float | None = None
    initial_accumulator: float | None = None


@dataclass(frozen=True, kw_only=True)
class ScheduleFreeSgd(Optimizer, field="schedule_free_sgd"):
    """z -= lr*g; x averages z.

    The parameters are x, the point to evaluate and to keep. Gradients are taken at y = (1 - beta_1)*z +
    beta_1*x: clients pull it with PARAMETER_POINT_LOOKAHEAD.

    Attributes:
        learning_rate: Step size; replaced by the session's schedule where there is one.
        beta_1: Share of x in the point where gradients are taken.
        weight_lr_power: Steps are averaged with the weight rate^weight_lr_power, by the largest rate
            so far.
        weight_decay: Times y, added to the gradient.
    """

    learning_rate: float | None = None
    beta_1: float | None = None
    weight_lr_power: float | None = None
    weight_decay: float | None = None


@dataclass(frozen=True, kw_only=True)
class ScheduleFreeAdamw(Optimizer, field="schedule_free_adamw"):
    """As ScheduleFreeSgd, with g/(sqrt(v_hat) + epsilon) + weight_decay*y for g.

    Attributes:
        learning_rate: Step size; replaced by the session's schedule where there is one.
        beta_1: Share of x in the point where gradients are taken.
        beta_2: Share of the last second moment that is kept.
        epsilon: Keeps the denominator from zero.
        weight_lr_power: Steps are averaged with the weight rate^weight_lr_power, by the largest rate
            so far.
        weight_decay: Times y, added to the direction.
    """

    learning_rate: float | None = None
    beta_1: float | None = None
    beta_2: float | None = None
    epsilon: float | None = None
    weight_lr_power: float | None = None
    weight_decay: float | None = None


@dataclass(frozen=True, kw_only=True)
class Lamb(Optimizer, field="lamb"):
    """LAMB: Adam's step, scaled for each tensor by |p|/|step|.

    Attributes:
        learning_rate: Step size; replaced by the session's schedule where there is one.
        beta_1: Share of the last first moment that is kept.
        beta_2: Share of the last second moment that is kept.
        epsilon: Keeps the denominator from zero.
        weight_decay: Decay inside the trust ratio: weight_decay*p is added to the step before its
            norm is taken. optax. Keras decays outside: that is the session's decoupled weight decay.
        epsilon_root: Added below the root. optax.
    """

    learning_rate: float | None = None
    beta_1: float | None = None
    beta_2: float | None = None
    epsilon: float | None = None
    weight_decay: float | None = None
    epsilon_root: float | None = None


@dataclass(frozen=True, kw_only=True)
class Lars(Optimizer, field="lars"):
    """LARS.

    v = mu*v - lr*ratio*(g + weight_decay*p); p += v, where for each tensor ratio =
    trust_coefficient*|p|/(|g + weight_decay*p| + epsilon), or 1 where a norm is 0.

    Attributes:
        learning_rate: Step size; replaced by the session's schedule where there is one.
        momentum: Share of the last velocity that is kept.
        weight_decay: Decay, added to the gradient before its norm is taken.
        trust_coefficient: Factor of the ratio.
        epsilon: Added to the norm below.
        nesterov: Whether the step looks ahead: p += mu*v - lr*ratio*(g + weight_decay*p).
    """

    learning_rate: float | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    trust_coefficient: float | None = None
    epsilon: float | None = None
    nesterov: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Adafactor(Optimizer, field="adafactor"):
    """Adafactor.

    Second moments of tensors with two and more dimensions are kept as averages over rows and over columns
    of two of them.

    Attributes:
        learning_rate: Relative step size, or its upper bound under relative_step; replaced by the
            session's schedule where there is one.
        beta_2_decay: The averages' share of what is new at step t is t^beta_2_decay.
        epsilon_1: Keeps second moments from zero; 0 takes the dtype's epsilon under FLOOR.
        epsilon_2: The least root mean square of a parameter that the step is scaled by.
        clip_threshold: The root mean square that a step may have before it is scaled down.
        form: Where epsilon_1 enters.
        min_dim_size_to_factor: The least extent that both dimensions must have for averages to be
            kept in place of all second moments; 0 keeps averages wherever there are two dimensions.
        factor_largest: Whether the averages are over the two largest dimensions rather than the last
            two.
        relative_step: Whether the step size is at most 1/sqrt(t).
    """

    learning_rate: float | None = None
    beta_2_decay: float | None = None
    epsilon_1: float | None = None
    epsilon_2: float | None = None
    clip_threshold: float | None = None
    form: AdafactorForm | None = None
    min_dim_size_to_factor: int | None = None
    factor_largest: bool | None = None
    relative_step: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Muon(Optimizer, field="muon"):
    """Muon: matrices step along an orthogonalized momentum, every other tensor by AdamW.

    Attributes:
        learning_rate: Step size; replaced by the session's schedule where there is one.
        weight_decay: p -= lr*weight_decay*p before the step. A weight decay stated by the session or
            by a parameter group takes its place.
        momentum: Share of the last momentum that is kept.
        nesterov: Whether the step looks ahead.
        iterations: How often the Newton-Schulz iteration runs.
        epsilon: The least norm that the momentum is divided by (TORCH), or what is added to its norm.
        adam_learning_rate_factor: Factor of the step size where AdamW steps.
        adam_beta_1: AdamW's share of the last first moment that is kept.
        adam_beta_2: AdamW's share of the last second moment that is kept.
        adam_epsilon: Keeps AdamW's denominator from zero.
        adam_epsilon_root: Added below AdamW's root. optax.
        form: Whose Muon.
        rms_rate: Above 0, a matrix of A rows and B columns steps by rms_rate*sqrt(max(A, B)) times
            the learning rate, whatever the form (PyTorch's match_rms_adamw is 0.2; optax'
            consistent_rms). At 0 the form says by how much.
    """

    learning_rate: float | None = None
    weight_decay: float | None = None
    momentum: float | None = None
    nesterov: bool | None = None
    iterations: int | None = None
    epsilon: float | None = None
    adam_learning_rate_factor: float | None = None
    adam_beta_1: float | None = None
    adam_beta_2: float | None = None
    adam_epsilon: float | None = None
    adam_epsilon_root: float | None = None
    form: MuonForm | None = None
    rms_rate: float | None = None


@dataclass(frozen=True, kw_only=True)
class Prodigy(Optimizer, field="prodigy"):
    """Prodigy.

    Adam whose step size is an estimate of the distance to the solution, made from all tensors of a
    parameter group together.

    Attributes:
        learning_rate: Factor of the estimated step size; replaced by the session's schedule where
            there is one.
        beta_1: Share of the last first moment that is kept.
        beta_2: Share of the last second moment that is kept.
        beta_3: Share of the last sums that the estimate is made from; the square root of beta_2 when
            0.
        epsilon: Keeps the denominator from zero; it is multiplied by the estimate.
        initial_estimate: The first estimate.
        estimate_coefficient: Factor of every later estimate.
        weight_decay: Decay of the parameters by the estimated step size.
        safeguard_warmup: Whether the sums leave out the learning rate, for warm-ups.
    """

    learning_rate: float | None = None
    beta_1: float | None = None
    beta_2: float | None = None
    beta_3: float | None = None
    epsilon: float | None = None
    initial_estimate: float | None = None
    estimate_coefficient: float | None = None
    weight_decay: float | None = None
    safeguard_warmup: bool | None = None
