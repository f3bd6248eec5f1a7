"""ROUNDS and Flower beside exact arithmetic: a round is within an ulp of it, and nearer than Flower's.

Flower averages the clients' parameters in their type, so that each product and sum is rounded at the scale of
the parameters; FedAdam subtracts the parameters afterwards, which leaves those errors alone. ROUNDS adds up
changes, whose rounding is finer by as much as they are smaller, and rounds once at the scale of the
parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Context, Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest

from optserve_server.optimizers.base import Rule
from optserve_server.optimizers.fed_adam import FedAdam, FedAdamCorrection
from optserve_server.optimizers.sgd import SGD
from optserve_server.spec.coordination import CoordinationRounds
from optserve_server.state.step_result import StepResult
from tests.service.coordination.flower_rounds import ADAM, Array, FlowerRounds, load
from tests.service.coordination.support import Coordinated
from tests.service.sessions.support import spec_of

ROUNDS = {f"{one.strategy}-{one.dtype}": one for one in load()}
DIGITS = 80

ULPS = 0.6
"""Distance of our parameters from the exact ones, in units in the last place, that a round adds at most.

A half is the rounding of the sum; the rest is that of the changes, which are much smaller.
"""


def close_rounds(given: FlowerRounds) -> Array:
    """Our parameters after the rounds."""
    rule: Rule = SGD(learning_rate=1.0)
    if given.strategy == "FedAdam":
        rule = FedAdam(
            learning_rate=ADAM["eta"],
            beta1=ADAM["beta_1"],
            beta2=ADAM["beta_2"],
            tau=ADAM["tau"],
            initial_accumulator=0.0,
            bias_correction=FedAdamCorrection.FOLDED_AHEAD,
        )
    mode = CoordinationRounds(buffer_size=len(given.examples))
    made = Coordinated(spec_of(rule, coordination=mode), {"w": np.array(given.parameters, given.dtype)})
    epochs = [made.join(f"client-{number:02}").epoch for number in range(len(given.examples))]
    for number in range(len(given.changes)):
        for client, (sent, count) in enumerate(zip(given.list_sent(number), given.examples, strict=True)):
            change = {"w": sent - given.before(number)}
            name = f"client-{client:02}"
            done = made.contribute(name, epochs[client], number + 1, change, number, count)
            assert isinstance(done.outcome, StepResult)
        assert made.session.step == number + 1
    return made.parameters()["w"]


def mean_changes(given: FlowerRounds, number: int) -> list[Fraction]:
    """The exact mean of what the clients' training added to the parameters that they were given."""
    before = [Fraction(value) for value in given.before(number).tolist()]
    clients = [[Fraction(value) for value in sent.tolist()] for sent in given.list_sent(number)]
    total = sum(given.examples)
    return [
        sum((n * (client[i] - p) for client, n in zip(clients, given.examples, strict=True)), Fraction())
        / total
        for i, p in enumerate(before)
    ]


def exact(given: FlowerRounds) -> list[Decimal]:
    """The parameters after the rounds, to 80 digits."""
    with localcontext(Context(prec=DIGITS)):
        if given.strategy == "FedAvg":
            means = mean_changes(given, 0)
            sums = [Fraction(p) + mean for p, mean in zip(given.parameters, means, strict=True)]
            return [Decimal(one.numerator) / Decimal(one.denominator) for one in sums]
        eta, beta1, beta2, tau = (Decimal(ADAM[name]) for name in ("eta", "beta_1", "beta_2", "tau"))
        p = [Decimal(value) for value in given.parameters]
        m, v = [Decimal(0)] * len(p), [Decimal(0)] * len(p)
        for number in range(len(given.changes)):
            t = number + 2
            rate = eta * (1 - beta2**t).sqrt() / (1 - beta1**t)
            for i, mean in enumerate(mean_changes(given, number)):
                change = Decimal(mean.numerator) / Decimal(mean.denominator)
                m[i] = beta1 * m[i] + (1 - beta1) * change
                v[i] = beta2 * v[i] + (1 - beta2) * change**2
                p[i] += rate * m[i] / (v[i].sqrt() + tau)
        return p


def ulps_from(found: Array, expected: Sequence[Decimal]) -> float:
    """The largest distance, in units in the last place of what was found."""
    with localcontext(Context(prec=DIGITS)):
        return max(
            float(abs(Decimal(value) - right) / Decimal(unit))
            for value, right, unit in zip(
                found.tolist(), expected, np.spacing(np.abs(found)).tolist(), strict=True
            )
        )


@pytest.mark.parametrize("name", ROUNDS)
def test_a_round_is_within_an_ulp_of_exact_and_flower_is_farther(name: str) -> None:
    given = ROUNDS[name]
    expected = exact(given)
    ours = ulps_from(close_rounds(given), expected)
    flowers = ulps_from(np.array(given.path[-1], given.dtype), expected)
    print(f"{name}: ours {ours:.2f}, Flower {flowers:.2f} ulp")
    assert ours <= ULPS * len(given.changes)
    assert flowers > 2 * ours
