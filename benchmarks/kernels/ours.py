"""The server's own kernels, called as its sessions call them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve_server.arrays.backend import Backend
from optserve_server.optimizers.adam import Adam, BiasCorrection
from optserve_server.optimizers.adamw import AdamW
from optserve_server.optimizers.base import ElementwiseRule
from optserve_server.optimizers.momentum import Momentum, MomentumForm
from optserve_server.programs.step_programs import StepPrograms
from optserve_server.spec.session_spec import GradientSpec

Array = npt.NDArray[Any]

RATE, DECAY = 1e-3, 0.01
HATTED = BiasCorrection.HATTED
RULES: Mapping[str, ElementwiseRule] = {
    "Adam": Adam(bias_correction=HATTED, epsilon=1e-8),
    "AdamW": AdamW(bias_correction=HATTED, epsilon=1e-8, weight_decay=DECAY),
    "SGD with momentum": Momentum(momentum=0.9, form=MomentumForm.HEAVY_BALL),
}
"""Each with torch's defaults."""


class Kernel:
    """The first step of a rule, over and over, on arrays of its own.

    Args:
        rule: the rule.
        backend: what computes.
        parameters: the first values (float32).
        gradient: of any wire dtype.
    """

    def __init__(self, rule: ElementwiseRule, backend: Backend, parameters: Array, gradient: Array) -> None:
        decays = rule.decoupled_weight_decay != 0
        program = StepPrograms(rule, GradientSpec(), decays=decays, averages=False).trace_apply(scaled=False)
        kernel = backend.compile(program, parameters.dtype, {"g": gradient.dtype})
        slots = {slot: np.full_like(parameters, value) for slot, value in rule.slots().items()}
        arrays = {"p": parameters.copy(), "g": gradient, **slots}
        self._arrays = {name: backend.from_host(array) for name, array in arrays.items()}
        self._bound = kernel.bind(self._arrays, len(parameters))
        self._run = self._bound.make_single_segment_run()
        known = {**rule.compute_scalars(1, RATE), "guard_decay": 1 - RATE * rule.decoupled_weight_decay}
        self._scalars = {name: known[name] for name in program.scalars}
        self.backend = backend

    def __call__(self) -> None:
        """One step."""
        self._run(self._scalars)

    def parameters(self) -> Array:
        """A copy of the parameters."""
        return np.array(self.backend.to_host(self._arrays["p"]))
