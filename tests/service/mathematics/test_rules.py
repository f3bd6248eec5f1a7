"""The rules' own numbers, worked by hand or from the formula."""

from __future__ import annotations

import numpy as np
import pytest

from optserve_server.arrays.ops import NumpyOps
from optserve_server.errors import DomainError, Reason
from optserve_server.hyperparameters import Convention
from optserve_server.optimizers import REGISTRY
from optserve_server.optimizers.adagrad import Adagrad
from optserve_server.optimizers.adamw import AdamW
from optserve_server.optimizers.amsgrad import AMSGrad, AMSGradMaximum
from optserve_server.optimizers.base import ElementwiseRule
from optserve_server.optimizers.momentum import Momentum, MomentumForm
from optserve_server.optimizers.nadam import NAdam, NAdamForm
from optserve_server.optimizers.nesterov import Nesterov, NesterovForm
from optserve_server.optimizers.rmsprop import RMSprop
from optserve_server.optimizers.rprop import Rprop
from optserve_server.optimizers.sgd import SGD
from tests.service.mathematics.evaluation import run


def path(
    rule: ElementwiseRule, gradients: list[float], rates: list[float], start: float = 1.0
) -> list[float]:
    states = run(rule, np.array([start]), [np.array([g]) for g in gradients], rates)
    return [float(arrays["p"][0]) for arrays in states]


SIGNS, FALLING = [0.1, -0.2, 0.3], [0.1, 0.01, 0.01]


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (MomentumForm.CLASSICAL, [0.99, 0.983, 0.9737]),
        (MomentumForm.HEAVY_BALL, [0.99, 0.9911, 0.98909]),
        (MomentumForm.EMA, [0.999, 0.99911, 0.998909]),
    ],
)
def test_momentum_under_a_falling_rate(form: MomentumForm, expected: list[float]) -> None:
    assert path(Momentum(form=form), SIGNS, FALLING) == pytest.approx(expected, rel=1e-14)


def test_dampening_spares_the_first_gradient() -> None:
    rule = Momentum(momentum=0.5, dampening=0.25, form=MomentumForm.HEAVY_BALL)
    # b = 1, then 0.5*1 + 0.75*1
    assert path(rule, [1.0, 1.0], [0.1, 0.1]) == pytest.approx([0.9, 0.775], rel=1e-14)


@pytest.mark.parametrize("form", [MomentumForm.CLASSICAL, MomentumForm.EMA])
def test_dampening_belongs_to_the_heavy_ball(form: MomentumForm) -> None:
    with pytest.raises(DomainError) as caught:
        Momentum(dampening=0.1, form=form)
    assert (caught.value.reason, caught.value.field) == (Reason.CONFLICTING_FIELDS, "dampening")


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (NesterovForm.KERAS, [0.981, 0.9767, 0.96533]),
        (NesterovForm.TORCH, [0.981, 0.98399, 0.979181]),
        (NesterovForm.LOOKAHEAD, [0.99, 0.983, 0.9737]),
        (NesterovForm.LOOKAHEAD_EMA, [0.999, 0.99911, 0.998909]),
    ],
)
def test_nesterov_under_a_falling_rate(form: NesterovForm, expected: list[float]) -> None:
    assert path(Nesterov(form=form), SIGNS, FALLING) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize(
    ("form", "expected"),
    [(NesterovForm.LOOKAHEAD, 1.0 + 0.9 * 0.5), (NesterovForm.LOOKAHEAD_EMA, 1.0 - 0.1 * 0.5)],
)
def test_the_point_ahead(form: NesterovForm, expected: float) -> None:
    rule = Nesterov(form=form)
    point = rule.lookahead(NumpyOps(), np.array([1.0]), np.array([0.5]), **rule.compute_scalars(2, 0.1))
    assert rule.has_lookahead
    assert point == pytest.approx([expected], rel=1e-15)


@pytest.mark.parametrize("form", [NesterovForm.KERAS, NesterovForm.TORCH])
def test_forms_that_keep_the_point_ahead_as_parameters(form: NesterovForm) -> None:
    assert not Nesterov(form=form).has_lookahead


def test_classical_lookahead_is_the_keras_form_seen_from_the_other_point() -> None:
    """Gradients of p^2/2, taken where each form asks for them, at a constant rate."""
    ahead, keras = Nesterov(form=NesterovForm.LOOKAHEAD), Nesterov(form=NesterovForm.KERAS)
    ops, a, b = NumpyOps(), [np.array([1.0]), np.array([0.0])], [np.array([1.0]), np.array([0.0])]
    for step in range(1, 6):
        numbers = ahead.compute_scalars(step, 0.1)
        point = ahead.lookahead(ops, *a, **numbers)
        assert point == pytest.approx(b[0], rel=1e-14)
        a = list(ahead.update(ops, a[0], point, a[1], **numbers))
        b = list(keras.update(ops, b[0], b[0], b[1], **numbers))


def test_adagrad_starts_its_sum_and_lowers_its_rate() -> None:
    rule = Adagrad(initial_accumulator=3.0, epsilon=0.0, learning_rate_decay=1.0)
    # 1/sqrt(3 + 1); then (1/2)*2/sqrt(4 + 4)
    assert path(rule, [1.0, 2.0], [1.0, 1.0]) == pytest.approx([0.5, 0.5 - 1 / 8**0.5], rel=1e-14)


@pytest.mark.parametrize(
    ("options", "slots"),
    [
        ({}, ["v"]),
        ({"centered": True}, ["v", "mean"]),
        ({"momentum": 0.9}, ["v", "velocity"]),
        (
            {"momentum": 0.9, "centered": True, "momentum_form": MomentumForm.HEAVY_BALL},
            ["v", "mean", "buffer"],
        ),
    ],
)
def test_rmsprop_keeps_what_it_needs(options: dict[str, object], slots: list[str]) -> None:
    assert list(RMSprop(**options).slots()) == slots


def test_rmsprop_refuses_the_averaged_momentum() -> None:
    with pytest.raises(DomainError) as caught:
        RMSprop(momentum_form=MomentumForm.EMA)
    assert (caught.value.reason, caught.value.field) == (Reason.UNSUPPORTED_VALUE, "momentum_form")


def test_a_rounded_variance_below_zero_counts_as_zero() -> None:
    g = np.linspace(1, 4, 2000, dtype=np.float32)
    states = run(RMSprop(centered=True), np.ones_like(g), [g] * 200, [1e-6] * 200)
    variances = np.array([arrays["v"] - arrays["mean"] * arrays["mean"] for arrays in states])
    assert variances.min() < -1e-7  # epsilon would not save the root
    assert np.isfinite(states[-1]["p"]).all()


def test_amsgrad_of_the_lecture_averages_on_from_the_maximum() -> None:
    rule = AMSGrad(beta1=0.0, beta2=0.5, epsilon=0.0, maximum=AMSGradMaximum.UNCORRECTED)
    # Averages of 2, then 1.5 below it, then 3 from the maximum of 2; nothing is corrected.
    expected = np.cumsum([2 / 2**0.5, 1 / 2**0.5, 2 / 3**0.5])
    assert path(rule, [2.0, 1.0, 2.0], [1.0] * 3, start=0.0) == pytest.approx(-expected, rel=1e-14)


def test_amsgrad_over_corrected_moments_forgets_no_peak() -> None:
    rule = AMSGrad(beta1=0.0, beta2=0.5, epsilon=0.0, maximum=AMSGradMaximum.CORRECTED)
    # v/(1 - b2^t): 4, then 1/(3/4)... the first stays the greatest
    assert path(rule, [2.0, 0.0, 1.0], [1.0] * 3) == pytest.approx([0.0, 0.0, -0.5], abs=1e-14)


def test_adamw_leaves_the_decay_to_the_session() -> None:
    assert AdamW(weight_decay=0.25).decoupled_weight_decay == 0.25
    assert SGD().decoupled_weight_decay == 0.0
    assert path(AdamW(), SIGNS, FALLING) == path(REGISTRY["adam"](), SIGNS, FALLING)


def test_nadam_hands_its_product_on() -> None:
    rule = NAdam(momentum_decay=1.0)
    assert rule.initial_scalar_state() == {"momentum_product": 1.0}
    first = 0.9 * (1 - 0.5 * 0.96)
    assert rule.compute_scalars(1, 0.1, momentum_product=1.0)["momentum_product"] == pytest.approx(first)
    second = first * 0.9 * (1 - 0.5 * 0.96**2)
    assert rule.compute_scalars(2, 0.1, momentum_product=first)["momentum_product"] == pytest.approx(second)
    assert NAdam(form=NAdamForm.CONSTANT).initial_scalar_state() == {}


def test_rprop_grows_shrinks_and_waits() -> None:
    rule = Rprop(learning_rate=0.1)
    # 0.1; the same sign: 0.12; turned: 0.06 and no move; again: 0.06; no gradient; again
    moves = -np.diff([1.0, *path(rule, [1.0, 5.0, -1.0, -1.0, 0.0, 2.0], [9.0] * 6)])
    assert moves == pytest.approx([0.1, 0.12, 0.0, -0.06, 0.0, 0.06], abs=1e-15)


def test_rprop_sees_signs_whose_product_would_vanish() -> None:
    states = run(
        Rprop(learning_rate=0.1), np.ones(1, np.float32), [np.full(1, 1e-30, np.float32)] * 2, [1.0] * 2
    )
    assert states[-1]["step_size"] == pytest.approx([0.12], rel=1e-6)


def test_rprop_keeps_its_steps_in_range() -> None:
    rule = Rprop(learning_rate=1.0, step_size_min=0.9, step_size_max=1.1)
    sizes = [
        float(a["step_size"][0])
        for a in run(rule, np.ones(1), [np.ones(1), np.ones(1), -np.ones(1)], [1.0] * 3)
    ]
    assert sizes == [1.0, 1.1, 0.9]
    with pytest.raises(DomainError) as caught:
        Rprop(step_size_min=2.0, step_size_max=1.0)
    assert (caught.value.reason, caught.value.field) == (Reason.CONFLICTING_FIELDS, "step_size_min")


# FTRL computes weights from gradients alone.
@pytest.mark.parametrize(
    "name", [n for n in REGISTRY if n != "ftrl" and issubclass(REGISTRY[n], ElementwiseRule)]
)
def test_a_weight_without_gradients_stays_under_the_lecture(name: str) -> None:
    rule = REGISTRY[name].resolve({}, Convention.LECTURE)
    states = run(rule, np.array([1.0, 1.0]), [np.array([0.0, 0.5])] * 3, [0.1] * 3)
    assert states[-1]["p"][0] == 1.0
    assert states[-1]["p"][1] < 1.0
