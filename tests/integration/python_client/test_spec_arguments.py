"""What fields of a specification may be given as, and what the error says when they may not."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import optserve
from optserve import (
    Annealing,
    ClipByGlobalNorm,
    Gradient,
    Initialized,
    ParameterGroup,
    ParameterPoint,
    Pull,
    SessionSpec,
)

# The names that users of other frameworks type are taken at run time; types know the contract's alone.
activations: Any = optserve.activations
initializers: Any = optserve.initializers
layers: Any = optserve.layers
losses: Any = optserve.losses
optimizers: Any = optserve.optimizers
schedules: Any = optserve.schedules
SGD, Adam, AdamW = optimizers.SGD, optimizers.Adam, optimizers.AdamW
Adan, FedAvgM, RMSprop = optimizers.Adan, optimizers.FedAvgM, optimizers.RMSprop

NAN = float("nan")

TAKEN = [
    (Adam(lr=0.1), Adam(learning_rate=0.1)),
    (Adam(0.1), Adam(learning_rate=0.1)),
    (Adam(learning_rate=np.float32(0.5)), Adam(learning_rate=0.5)),
    (Adam(learning_rate=np.array([0.5])), Adam(learning_rate=0.5)),
    (Adam(learning_rate=Fraction(1, 2)), Adam(learning_rate=0.5)),
    (Adam(learning_rate=1), Adam(learning_rate=1.0)),
    (Adam(betas=(0.8, 0.9), eps=1e-3), Adam(beta1=0.8, beta2=0.9, epsilon=1e-3)),
    (Adam(b1=0.8, b2=0.9, eps_root=1e-3), Adam(beta1=0.8, beta2=0.9, epsilon_root=1e-3)),
    (Adam(beta_1=0.8, Beta_2=0.9), Adam(beta1=0.8, beta2=0.9)),
    (optimizers.Prodigy(beta_3=0.9), optimizers.Prodigy(beta3=0.9)),
    (optimizers.Muon(adam_beta_1=0.8, adam_beta_2=0.9), optimizers.Muon(adam_beta1=0.8, adam_beta2=0.9)),
    (
        optimizers.Adafactor(beta_2_decay=-0.5, epsilon_1=1e-9, epsilon_2=0.1),
        optimizers.Adafactor(beta2_decay=-0.5, epsilon1=1e-9, epsilon2=0.1),
    ),
    (Adan(betas=[0.8, 0.9, 0.95]), Adan(beta1=0.8, beta2=0.9, beta3=0.95)),
    (RMSprop(alpha=0.9), RMSprop(rho=0.9)),
    (AdamW(wd=0.1), AdamW(weight_decay=0.1)),
    (optimizers.Adagrad(lr_decay=0.1), optimizers.Adagrad(learning_rate_decay=0.1)),
    (Adam(convention="torch"), Adam(convention=optserve.TORCH)),
    (Adam(convention="Torch"), Adam(convention=optserve.TORCH)),
    (
        optimizers.Momentum(form="heavy-ball"),
        optimizers.Momentum(form=optserve.MomentumForm.HEAVY_BALL),
    ),
    (optimizers.LARS(nesterov=np.True_), optimizers.LARS(nesterov=True)),
    (schedules.Cosine(lr=0.1, decay_steps=np.int64(9)), schedules.Cosine(0.1, 9.0)),
    (
        schedules.Exponential(init_value=1, transition_steps=9, decay_rate=0.5),
        schedules.Exponential(1, 9, 0.5),
    ),
    (schedules.StepDecay(0.1, 30.0), schedules.StepDecay(0.1, 30)),
    (
        schedules.MultiStepDecay(0.1, milestones=np.array([3, 5])),
        schedules.MultiStepDecay(0.1, milestones=[3, 5]),
    ),
    (
        schedules.MultiStepDecay(0.1, milestones=(n for n in (3, 5))),
        schedules.MultiStepDecay(0.1, milestones=(3, 5)),
    ),
    (schedules.MultiStepDecay(0.1, milestones=3), schedules.MultiStepDecay(0.1, milestones=[3])),
    (
        schedules.OneCycle(max_lr=0.1, total_steps=9, annealing="linear"),
        schedules.OneCycle(0.1, 9, annealing=Annealing.LINEAR),
    ),
    (
        losses.MeanSquaredError(reduction="none"),
        losses.MeanSquaredError(reduction=optserve.LossReduction.NONE),
    ),
    (losses.BinaryCrossentropy(pos_weight=2), losses.BinaryCrossentropy(positive_weight=2.0)),
    (losses.Custom("y_pred", constants=[("A", 1)]), losses.Custom("y_pred", constants={"A": 1.0})),
    (ParameterGroup("g", tensors="w*"), ParameterGroup("g", tensors=["w*"])),
    (ParameterGroup("g", tensors={"b", "a"}), ParameterGroup("g", tensors=["a", "b"])),
    (ParameterGroup("g", optimizer="sgd"), ParameterGroup("g", optimizer=SGD())),
    (SessionSpec("adam"), SessionSpec(Adam())),
    (SessionSpec("FedAvgM"), SessionSpec(FedAvgM())),
    (SessionSpec("fed_avg_m"), SessionSpec(FedAvgM())),
    (SessionSpec("RMSprop"), SessionSpec(RMSprop())),
    (SessionSpec("schedule-free AdamW"), SessionSpec(optimizers.ScheduleFreeAdamW())),
    (SessionSpec(Adam), SessionSpec(Adam())),
    (SessionSpec("adam", gradient={"l2": 0.1}), SessionSpec(Adam(), gradient=Gradient(l2=0.1))),
    (SessionSpec("adam", groups=ParameterGroup("g")), SessionSpec(Adam(), groups=[ParameterGroup("g")])),
    (Initialized(3, "float32", "zeros"), Initialized((3,), "float32", initializers.Zeros())),
    (
        Initialized(np.array([3, 4]), "float32", initializers.Glorot),
        Initialized((3, 4), "float32", initializers.Glorot()),
    ),
    (
        layers.Network(layers.Dense(3), input_shape=4),
        layers.Network([layers.Dense(3)], input_shape=[4]),
    ),
    (Pull(tensors="w", point="lookahead"), Pull(tensors=("w",), point=ParameterPoint.LOOKAHEAD)),
]


@pytest.mark.parametrize(("given", "meant"), TAKEN, ids=range(len(TAKEN)))
def test_what_has_a_plain_meaning_is_taken(given, meant):
    assert given == meant


REFUSED = [
    (lambda: Adam(learning_rate="0.1"), TypeError, "Adam.learning_rate is '0.1', but must be a number"),
    (lambda: Adam(learning_rate=True), TypeError, "Adam.learning_rate is True, but must be a number"),
    (
        lambda: Adam(learning_rate=np.ones(3)),
        TypeError,
        "Adam.learning_rate is a ndarray of shape (3,), but must be a number",
    ),
    (
        lambda: Adam(learning_rate=schedules.Rsqrt(0.1, 9)),
        TypeError,
        "but must be a number; schedules are given as schedule=... of the session",
    ),
    (
        lambda: Adam(convention="pytorch"),
        ValueError,
        "Adam.convention is 'pytorch', but must be a Convention: one of KERAS, TORCH, OPTAX, LECTURE",
    ),
    (
        lambda: Adam(convention=optserve.MomentumForm.EMA),
        TypeError,
        "but must be a Convention: one of KERAS",
    ),
    (lambda: Adam(convention=2), TypeError, "Adam.convention is 2, but must be a Convention"),
    (lambda: Adam(betas=0.9), TypeError, "Adam.betas is 0.9, but must be 2 numbers"),
    (lambda: Adam(betas=(0.9, "x")), TypeError, "Adam.betas[1] is 'x', but must be a number"),
    (lambda: Adam(lr=1, learning_rate=2), TypeError, "Adam.learning_rate is given twice"),
    (
        lambda: Adam(amsgrad=True),
        TypeError,
        "Adam has no field 'amsgrad'; AMSGrad is an optimizer of its own",
    ),
    (lambda: SGD(nesterov=True), TypeError, "SGD has no field 'nesterov'; Nesterov's gradient is"),
    (
        lambda: SGD(momentum=0.9),
        TypeError,
        "SGD has no field 'momentum'; momentum is an optimizer of its own",
    ),
    (lambda: SGD(weight_decay=0.1), TypeError, "gradient=Gradient(l2=...) of the session"),
    (lambda: Adam(clipnorm=1), TypeError, "gradient=Gradient(clip=ClipByTensorNorm(...))"),
    (
        lambda: Adam(learning_rat=1),
        TypeError,
        "Adam has no field 'learning_rat'; did you mean learning_rate?; its fields are",
    ),
    (lambda: optimizers.LARS(nesterov="yes"), TypeError, "LARS.nesterov is 'yes', but must be True or False"),
    (
        lambda: schedules.StepDecay(0.1, 1.5),
        ValueError,
        "StepDecay.step_size is 1.5, but must be a whole number",
    ),
    (
        lambda: schedules.StepDecay(0.1, 2**63),
        ValueError,
        "StepDecay.step_size is 9223372036854775808, but must be a whole number of at most 64 bits",
    ),
    (lambda: schedules.StepDecay(0.1, NAN), ValueError, "StepDecay.step_size is nan, but must be a whole"),
    (
        lambda: schedules.MultiStepDecay(0.1, milestones=[3, 5.5]),
        ValueError,
        "MultiStepDecay.milestones[1] is 5.5, but must be a whole number",
    ),
    (
        lambda: schedules.MultiStepDecay(0.1, milestones={3, 5}),
        TypeError,
        "but must be a list or another iterable that has an order",
    ),
    (
        lambda: schedules.MultiStepDecay(0.1, milestones=np.ones((2, 2))),
        TypeError,
        "MultiStepDecay.milestones is a ndarray of shape (2, 2), but must be a list of one dimension",
    ),
    (
        lambda: schedules.MultiStepDecay(0.1, milestones="30"),
        TypeError,
        "MultiStepDecay.milestones is '30', but must be a whole number",
    ),
    (lambda: losses.Custom(3), TypeError, "Custom.expression is 3, but must be a string"),
    (lambda: losses.Custom("\ud800"), ValueError, "Custom.expression is '\\ud800', but must be a string of"),
    (lambda: losses.Custom("x", constants="A"), TypeError, "Custom.constants is 'A', but must be a dict"),
    (
        lambda: losses.Custom("x", constants={"A": "1"}),
        TypeError,
        "Custom.constants['A'] is '1', but must be",
    ),
    (lambda: losses.Custom("x", constants={3: 1}), TypeError, "a name in Custom.constants is 3, but must be"),
    (
        lambda: ParameterGroup("g", tensors=[3]),
        TypeError,
        "ParameterGroup.tensors[0] is 3, but must be a string",
    ),
    (lambda: SessionSpec("adamm"), ValueError, "SessionSpec.optimizer is 'adamm', but must be one of sgd,"),
    (lambda: SessionSpec("adamm"), ValueError, "did you mean 'adam'?"),
    (lambda: SessionSpec(3), TypeError, "SessionSpec.optimizer is 3, but must be an Optimizer, or the name"),
    (lambda: SessionSpec(activations.ReLU()), TypeError, "but must be an Optimizer"),
    (
        lambda: SessionSpec("adam", schedule=0.1),
        TypeError,
        "SessionSpec.schedule is 0.1, but must be a Schedule",
    ),
    (
        lambda: SessionSpec("adam", schedule="cosine"),
        TypeError,
        "schedule is 'cosine', which needs more: Cosine(initial_learning_rate=..., decay_steps=...)",
    ),
    (
        lambda: SessionSpec("adam", gradient=ClipByGlobalNorm(1)),
        TypeError,
        "but must be a Gradient, or a dict of its fields: accumulation_steps, l1",
    ),
    (lambda: SessionSpec("adam", gradient={"clipp": 1}), TypeError, "Gradient has no field 'clipp'"),
    (
        lambda: Initialized((3, 1.5), "float32", "zeros"),
        ValueError,
        "Initialized.shape[1] is 1.5, but must be a whole number",
    ),
    (
        lambda: Initialized((3,), "float32", "zero"),
        ValueError,
        "Initialized.initializer is 'zero', but must be",
    ),
    (lambda: Pull(point="middle"), ValueError, "point is 'middle', but must be a ParameterPoint: one of"),
    (lambda: Pull(tensors=[1]), TypeError, "tensors[0] is 1, but must be a string"),
]


@pytest.mark.parametrize(("make", "error", "message"), REFUSED, ids=range(len(REFUSED)))
def test_anything_else_is_refused_with_field_value_and_what_is_allowed(make, error, message):
    with pytest.raises(error) as caught:
        make()
    assert message in str(caught.value)


def test_a_specification_is_hashable_whatever_it_was_made_from():
    made = schedules.MultiStepDecay(0.1, milestones=[3, 5])
    assert hash(made) == hash(schedules.MultiStepDecay(0.1, milestones=np.array([3, 5])))


def test_a_changed_copy_is_converted_as_well():
    assert dataclasses.replace(Adam(), convention="optax", learning_rate=1).convention is optserve.OPTAX
