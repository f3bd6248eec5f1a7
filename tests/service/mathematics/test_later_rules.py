"""RAdam and what followed it, the federated and the schedule-free rules, worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from optserve_server.arrays.ops import NumpyOps
from optserve_server.errors import DomainError, Reason
from optserve_server.optimizers.adam import BiasCorrection
from optserve_server.optimizers.adan import Adan
from optserve_server.optimizers.adopt import ADOPT
from optserve_server.optimizers.base import ElementwiseRule
from optserve_server.optimizers.fed_adam import FedAdam, FedAdamCorrection
from optserve_server.optimizers.fed_avg_m import FedAvgM
from optserve_server.optimizers.ftrl import FTRL
from optserve_server.optimizers.lion import Lion
from optserve_server.optimizers.radam import RAdam
from optserve_server.optimizers.schedule_free_adamw import ScheduleFreeAdamW
from optserve_server.optimizers.schedule_free_sgd import ScheduleFreeSGD
from optserve_server.optimizers.yogi import Yogi
from tests.service.mathematics.evaluation import run

RULES: list[ElementwiseRule] = [ScheduleFreeSGD(beta1=0.75), ScheduleFreeAdamW(beta1=0.75)]


def path(
    rule: ElementwiseRule, gradients: list[float], rates: list[float], start: float = 1.0
) -> list[float]:
    states = run(rule, np.array([start]), [np.array([g]) for g in gradients], rates)
    return [float(arrays["p"][0]) for arrays in states]


def test_radam_follows_the_mean_until_its_average_is_long_enough() -> None:
    rule = RAdam()
    assert [rule.rectification(t) is None for t in range(1, 7)] == [True] * 5 + [False]
    assert path(rule, [0.5] * 5, [0.1] * 5) == pytest.approx([1 - 0.05 * t for t in range(1, 6)])


def test_radam_at_the_threshold_itself() -> None:
    power = 0.875**8
    length = 15 - 2 * 8 * power / (1 - power)
    assert length > 4
    assert RAdam(beta2=0.875, threshold=length).rectification(8) is None
    assert RAdam(beta2=0.875, threshold=length, rectified_at_threshold=True).rectification(8) is not None


def test_radam_refuses_to_correct_nothing() -> None:
    with pytest.raises(DomainError) as caught:
        RAdam(bias_correction=BiasCorrection.NONE)
    assert (caught.value.reason, caught.value.field) == (Reason.UNSUPPORTED_VALUE, "bias_correction")


def test_radam_survives_squares_beyond_float32() -> None:
    huge = [np.full(1, 1e25, np.float32)] * 8
    with np.errstate(over="ignore"):
        states = run(RAdam(), np.ones(1, np.float32), huge, [1e-27] * 8)
    assert np.isfinite([arrays["p"] for arrays in states]).all()


def test_radam_ignores_an_infinite_second_moment_in_its_warm_up() -> None:
    huge = [np.full(1, 1e25, np.float32)] * 5
    with np.errstate(over="ignore"):
        states = run(RAdam(), np.ones(1, np.float32), huge, [1e-26] * 5)
    assert np.isinf(states[0]["v"]).all()
    assert [float(s["p"][0]) for s in states] == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5], rel=1e-6)


def test_ftrl_stands_still_at_rate_zero_under_an_infinite_sum() -> None:
    huge = [np.full(1, 1e25, np.float32), np.full(1, 1.0, np.float32)]
    with np.errstate(all="ignore"):
        first, second = run(FTRL(), np.ones(1, np.float32), huge, [0.1, 0.0])
    assert np.isinf(first["accumulator"]).all()
    for name, value in first.items():
        np.testing.assert_array_equal(second[name], value)


def test_adopt_divides_nothing_in_its_first_step() -> None:
    huge = [np.full(1, 1e35, np.float32)]
    with np.errstate(over="ignore"):
        only = run(ADOPT(clipped=False), np.ones(1, np.float32), huge, [0.1])[0]
    assert (only["p"], only["direction"]) == ([1.0], [0.0])


def test_lion_steps_by_the_sign_alone_and_leaves_the_decay_to_the_session() -> None:
    assert path(Lion(), [1e-9, -50.0, 0.0], [0.1] * 3) == pytest.approx([0.9, 1.0, 1.1])
    assert Lion(weight_decay=0.5).decoupled_weight_decay == 0.5


def test_yogi_keeps_its_second_moment_above_zero() -> None:
    gradients = [np.full(1, g, np.float32) for g in (1.0, 0.9999, 0.5, 0.0, 2.0)] * 20
    states = run(Yogi(beta2=0.0, initial_accumulator=0.0), np.ones(1, np.float32), gradients, [1e-3] * 100)
    assert min(arrays["v"][0] for arrays in states) >= 0
    assert all(np.isfinite(arrays["p"]).all() for arrays in states)


def test_adan_knows_no_change_at_first() -> None:
    first = run(Adan(), np.ones(1), [np.array([5.0])], [0.1])[0]
    assert first["change"] == [0.0]
    assert first["previous_gradient"] == [5.0]


def test_adopt_only_measures_at_first() -> None:
    rule = ADOPT(beta1=0.5)
    first, second = run(rule, np.ones(1), [np.array([4.0]), np.array([2.0])], [0.1, 0.1])
    assert (first["p"], first["direction"], first["v"]) == ([1.0], [0.0], [16.0])
    # 2/sqrt(16) halved
    assert second["p"] == pytest.approx([1 - 0.1 * 0.25])


def test_adopt_clips_to_the_fourth_root() -> None:
    gradients = [1.0, 100.0, 1e6]
    clipped, free = ADOPT(beta1=0.0, beta2=0.5), ADOPT(beta1=0.0, beta2=0.5, clipped=False)
    assert path(clipped, gradients, [1.0] * 3, 0.0) == pytest.approx([0.0, -1.0, -1.0 - 2**0.25])
    assert path(free, gradients, [1.0] * 3, 0.0)[1] == pytest.approx(-100.0)


def test_ftrl_is_exactly_zero_below_l1() -> None:
    states = run(FTRL(l1=1.0), np.zeros(3), [np.array([0.5, -2.0, 3.0])], [0.1])
    assert (states[0]["p"] == 0).tolist() == [True, False, False]
    assert states[0]["p"][1] > 0 > states[0]["p"][2]


def test_ftrl_stands_still_at_rate_zero() -> None:
    before, after = run(FTRL(beta=1.0), np.array([1.0, -2.0]), [np.array([0.5, 3.0])] * 2, [0.1, 0.0])
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_ftrl_has_one_power() -> None:
    with pytest.raises(DomainError) as caught:
        FTRL(learning_rate_power=-1.0)
    assert (caught.value.reason, caught.value.field) == (Reason.OUT_OF_RANGE, "learning_rate_power")
    assert str(caught.value) == "learning_rate_power is -1.0, but must be -0.5"


def test_a_pseudo_gradient_leads_to_the_mean_of_the_clients() -> None:
    """At rate 1 without momentum FedAvgM is federated averaging."""
    server, clients = np.array([1.0, -2.0]), [np.array([2.0, 0.0]), np.array([4.0, 1.0])]
    mean = np.mean(clients, axis=0)
    (after,) = run(FedAvgM(momentum=0.0), server, [server - mean], [1.0])
    assert np.array_equal(after["p"], mean)


def test_fed_adam_corrects_nothing() -> None:
    rule = FedAdam(beta1=0.5, beta2=0.75, tau=0.5)
    # m = 1, v = 1: 1/(1 + 0.5)
    assert path(rule, [2.0], [0.3]) == pytest.approx([1 - 0.3 / 1.5])
    assert rule.step_dependent_slots == frozenset()


def test_fed_adam_may_be_corrected_as_in_flower() -> None:
    """By the factor of the step after: sqrt(1 - 0.75^2)/(1 - 0.5^2) at first."""
    rule = FedAdam(beta1=0.5, beta2=0.75, tau=0.5, bias_correction=FedAdamCorrection.FOLDED_AHEAD)
    factor = math.sqrt(1 - 0.75**2) / (1 - 0.5**2)
    assert path(rule, [2.0], [0.3]) == pytest.approx([1 - 0.3 * factor / 1.5])
    assert rule.step_dependent_slots == {"m", "v"}


def test_schedule_free_descent_averages_its_path() -> None:
    """At a constant rate x is the plain mean of all z."""
    gradients, p = [1.0, -2.0, 4.0, 0.5], 3.0
    z = p - 0.1 * np.cumsum(gradients)
    expected = [z[: t + 1].mean() for t in range(4)]
    assert path(ScheduleFreeSGD(), gradients, [0.1] * 4, p) == pytest.approx(expected, rel=1e-14)


def test_schedule_free_weights_follow_the_largest_rate() -> None:
    rule = ScheduleFreeSGD(weight_lr_power=2.0)
    # Rates 0, 1, 2, 1: weights 0, 1, 4, 4.
    z = np.array([0.0, -1.0, -3.0, -4.0])
    expected = [0.0, -1.0, (-1 - 4 * 3) / 5, (-1 - 4 * 3 - 4 * 4) / 9]
    assert path(rule, [1.0] * 4, [0.0, 1.0, 2.0, 1.0], 0.0) == pytest.approx(expected, rel=1e-14)
    assert z[-1] < expected[-1] < 0


@pytest.mark.parametrize("power", [0.0, 2.0])
def test_schedule_free_weights_at_extreme_rates(power: float) -> None:
    rule, carried = ScheduleFreeSGD(weight_lr_power=power), dict(ScheduleFreeSGD().initial_scalar_state())
    for rate in (0.0, 1e-308, 1e308, 0.0, 1e308):
        numbers = rule.compute_scalars(1, rate, **carried)
        carried = {name: numbers[name] for name in carried}
        assert 0 <= numbers["new"] <= 1
        assert numbers["new"] + numbers["old"] == 1


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_the_schedule_free_point_ahead(rule: ElementwiseRule) -> None:
    """y lies between z and x, and starts where x does."""
    ops, p = NumpyOps(), np.array([2.0])
    offset, *rest = [np.array([value]) for value in (0.5, *list(rule.slots().values())[1:])]
    numbers = {
        k: v
        for k, v in rule.compute_scalars(3, 0.1, **rule.initial_scalar_state()).items()
        if k not in rule.initial_scalar_state()
    }
    assert rule.has_lookahead
    assert rule.lookahead(ops, p, offset, *rest, **numbers) == [2.0 + 0.25 * 0.5]
    assert rule.lookahead(ops, p, np.zeros(1), *rest, **numbers) == [2.0]


def test_schedule_free_descent_reaches_a_minimum_that_plain_descent_circles() -> None:
    """|p| with gradients at y: x comes closer to 0 than the last step of descent can."""
    rule = ScheduleFreeSGD()
    ops, x, offset, carried = NumpyOps(), np.array([1.0]), np.zeros(1), dict(rule.initial_scalar_state())
    for step in range(1, 401):
        numbers = rule.compute_scalars(step, 0.3, **carried)
        carried = {name: numbers.pop(name) for name in carried}
        y = rule.lookahead(ops, x, offset, **numbers)
        x, offset = rule.update(ops, x, np.sign(y), offset, **numbers)
    assert abs(x[0]) < 0.02
    assert math.isclose(carried["weight_sum"], 400)
