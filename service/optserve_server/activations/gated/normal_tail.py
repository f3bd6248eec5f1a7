"""The standard normal distribution in the vocabulary's own operations.

There is no error function in the vocabulary, nor in NumPy. Written over exp it is the same
text on every executor, and keeps its digits in the tail, where (1 + erf(-a/sqrt(2)))/2 has
none left.
"""

from __future__ import annotations

import math

from optserve_server.arrays.ops import Ops, Value

CENTRE = 4.0

COEFFICIENTS = (
    0.7552851304157514,
    -0.607896641971893,
    0.3871374007422266,
    -0.1865218579595787,
    0.06039657489036092,
    -0.007540188968891619,
    -0.0034796923566515025,
    0.0016308184854735856,
    0.00013334420916014778,
    -0.00023109513778728935,
    -1.907676030719098e-06,
    3.514560235904452e-05,
    7.146021531267462e-07,
    -5.922893777541928e-06,
    -6.249551077565178e-07,
    1.026984070143193e-06,
    2.647337281979868e-07,
    -1.622316320853567e-07,
    -7.878360342693638e-08,
    1.9569608939974048e-08,
    1.60673869573294e-08,
    -1.277235143295772e-09,
    -1.6886576966786735e-09,
)
"""Of powers of t in (a + 4)*exp(a^2/2)*P(X > a), with t = (a - 4)/(a + 4) in [-1, 1].

The Chebyshev series of that function, computed to 50 digits, cut off below 3e-17.
"""


def upper_tail(ops: Ops, a: Value) -> Value:
    """P(X > a) for a >= 0 and X standard normal; erfc(a/sqrt(2))/2.

    Its relative error is at most 5 + a^2/2 units of 2^-53 or 2^-24: exp hands on the
    rounding of its argument.
    """
    t = (a - CENTRE) / (a + CENTRE)
    sum_ = COEFFICIENTS[-1] * t + COEFFICIENTS[-2]
    for coefficient in COEFFICIENTS[-3::-1]:
        sum_ = sum_ * t + coefficient
    return ops.exp(-0.5 * (a * a)) * (sum_ / (a + CENTRE))


def normal_density(ops: Ops, a: Value) -> Value:
    """The density of the standard normal distribution."""
    return ops.exp(-0.5 * (a * a)) * (1 / math.sqrt(2 * math.pi))
