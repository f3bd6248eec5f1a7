"""Decay periods before a step."""

from __future__ import annotations

import numpy as np

from optserve_server.schedules.base import Rates, Steps


def count_decay_periods(steps: Steps, decay_steps: float, staircase: bool) -> Rates:
    """``steps/decay_steps``, floored for a staircase."""
    quotient = steps / decay_steps
    return np.floor(quotient) if staircase else quotient
