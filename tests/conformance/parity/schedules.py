"""The schedules of the frameworks."""

from __future__ import annotations

from tests.conformance.parity.entry import Table, excuse, here

KERAS = {
    "CosineDecay": here("cosine"),
    "CosineDecayRestarts": here("cosine_restarts"),
    "ExponentialDecay": here("exponential"),
    "InverseTimeDecay": here("inverse_time"),
    "LearningRateSchedule": excuse("base class of others"),
    "PiecewiseConstantDecay": here("piecewise_constant"),
    "PolynomialDecay": here("polynomial"),
    "deserialize": excuse("reads a configuration"),
    "serialize": excuse("writes a configuration"),
}

TORCH = {
    "ChainedScheduler": here("product", "the rate in one of the schedules, factors in the others"),
    "ConstantLR": here("piecewise_constant", "the rate times factor before total_iters, the rate after it"),
    "CosineAnnealingLR": here("cosine", "alpha is eta_min divided by the rate"),
    "CosineAnnealingWarmRestarts": here("cosine_restarts", "alpha is eta_min divided by the rate"),
    "CyclicLR": here("cyclic", "without cycle_momentum; for another scale_fn, expression"),
    "ExponentialLR": here("exponential", "decay_steps 1"),
    "LRScheduler": excuse("base class of others"),
    "LambdaLR": here("expression", "the rate times the factor, as a formula of the step"),
    "LinearLR": here(
        "piecewise_interpolation", "from the rate times start_factor to the rate times end_factor"
    ),
    "MultiStepLR": here("multi_step_decay"),
    "MultiplicativeLR": here("expression", "the product of the factors, as a formula of the step"),
    "OneCycleLR": here("one_cycle", "without cycle_momentum"),
    "PolynomialLR": here("polynomial"),
    "ReduceLROnPlateau": excuse("depends on a metric: SessionSpec.reduce_on_plateau"),
    "SequentialLR": here("join"),
    "StepLR": here("step_decay"),
}

OPTAX = {
    "constant_schedule": here("constant"),
    "cosine_decay_schedule": here("cosine"),
    "cosine_onecycle_schedule": here("one_cycle"),
    "exponential_decay": here("exponential", "after transition_begin steps: join"),
    "inject_hyperparams": excuse("makes schedules a part of an optimizer's state, as a session's is"),
    "inject_stateful_hyperparams": excuse("as inject_hyperparams, for schedules with a state"),
    "InjectHyperparamsState": excuse("the state of inject_hyperparams"),
    "InjectStatefulHyperparamsState": excuse("the state of inject_stateful_hyperparams"),
    "join_schedules": here("join"),
    "linear_onecycle_schedule": here("one_cycle", "annealing LINEAR in three phases"),
    "linear_schedule": here("polynomial", "power 1; after transition_begin steps: join"),
    "piecewise_constant_schedule": here("piecewise_constant", "values instead of scales"),
    "piecewise_interpolate_schedule": here("piecewise_interpolation", "values instead of scales"),
    "polynomial_schedule": here("polynomial", "after transition_begin steps: join"),
    "sgdr_schedule": here("join", "of a warmup and a cosine for each cycle"),
    "warmup_constant_schedule": here("warmup", "before constant"),
    "warmup_cosine_decay_schedule": here("warmup", "before cosine"),
    "warmup_exponential_decay_schedule": here("warmup", "before exponential"),
    "Schedule": excuse("the type of others"),
    "StatefulSchedule": excuse("base class of schedules with a state"),
    "WrappedSchedule": excuse("wraps a schedule for inject_stateful_hyperparams"),
}

SCHEDULES: Table = {"keras": KERAS, "torch": TORCH, "optax": OPTAX}
