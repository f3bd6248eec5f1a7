"""How many decay periods a step has come."""

from __future__ import annotations

import math


def periods(step: int, decay_steps: float, staircase: bool) -> float:
    """``step/decay_steps``, floored for a staircase."""
    quotient = step / decay_steps
    return float(math.floor(quotient)) if staircase and math.isfinite(quotient) else quotient
