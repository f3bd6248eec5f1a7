"""The programs of a step: gradient preprocessing, the rule and the weight average as one.

`StepPrograms` writes them once for the tracer, so whatever a session asks for is part of
the same pass over memory. Numbers of the guards are named ``guard_...``, apart from a
rule's own.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from optserve_server.arrays.norms import trace_norm_sums
from optserve_server.arrays.ops import Value
from optserve_server.arrays.program import Program, ReductionKind
from optserve_server.arrays.trace import Tracer
from optserve_server.optimizers.base import ElementwiseRule, Rule
from optserve_server.optimizers.groupwise import GroupwiseRule
from optserve_server.optimizers.matrix import MatrixRule
from optserve_server.optimizers.tensorwise import TensorwiseRule
from optserve_server.spec.session_spec import (
    ClipByTensorNorm,
    ClipByValue,
    GradientSpec,
    ParameterGroup,
    SessionSpec,
)

PARAMETER, GRADIENT, ACCUMULATED, AVERAGE, POINT = "p", "g", "accumulated", "average", "point"
PREPARED = "prepared"
REPLY = "reply"
"""Names of the arrays that are not a rule's slots."""


@dataclass(frozen=True)
class StepPrograms:
    """The programs of one parameter group.

    Attributes:
        rule: the group's optimizer.
        gradient: the session's gradient preprocessing.
        decays: whether there is decoupled weight decay.
        averages: whether there is a weight average.
        wide: whether elements are of float64, so that the sum of their squares may leave its range.
    """

    rule: Rule
    gradient: GradientSpec
    decays: bool
    averages: bool
    wide: bool = False

    @functools.lru_cache(maxsize=1024)  # noqa: B019  equal specifications share their programs
    def trace_measure(self, scaled: bool) -> Program:
        """Sums over what the rule would see: norms, non-finite elements, the penalty."""
        t = Tracer()
        self._trace_measurements(t, scaled)
        return t.build_program()

    def _trace_measurements(self, t: Tracer, scaled: bool) -> None:
        gradient = self._prepare_gradient(t, t.load(GRADIENT), scaled)
        # Not of what was sent: finite elements may overflow on their way to the rule.
        t.reduce("non_finite", ReductionKind.NON_FINITE_COUNT, gradient)
        trace_norm_sums(t, "squares", gradient, wide=self.wide)
        if isinstance(self.gradient.clip, ClipByValue):
            trace_norm_sums(t, "clipped_squares", self._clip_gradient(t, gradient), wide=self.wide)
        if self.gradient.l1:
            t.reduce("magnitudes", ReductionKind.SUM_OF_MAGNITUDES, t.load(PARAMETER))
        if self.gradient.l2:
            trace_norm_sums(t, "parameter_squares", t.load(PARAMETER), wide=self.wide)

    @functools.lru_cache(maxsize=1024)  # noqa: B019
    def trace_measure_micro_batch(self, scaled: bool) -> Program:
        """Sums over a gradient that is only accumulated; elements not finite of what would wait."""
        t = Tracer()
        gradient = self._unscale_gradient(t, t.load(GRADIENT), scaled)
        t.reduce("non_finite", ReductionKind.NON_FINITE_COUNT, t.load(ACCUMULATED) + gradient)
        trace_norm_sums(t, "squares", gradient, wide=self.wide)
        return t.build_program()

    @functools.lru_cache(maxsize=1024)  # noqa: B019
    def trace_accumulate(self, scaled: bool) -> Program:
        """Adds a gradient to those that wait."""
        t = Tracer()
        gradient = self._unscale_gradient(t, t.load(GRADIENT), scaled)
        t.store(ACCUMULATED, t.load(ACCUMULATED) + gradient)
        return t.build_program()

    @functools.lru_cache(maxsize=1024)  # noqa: B019
    def trace_measure_tensors(self, scaled: bool) -> Program:
        """Sums over each tensor that a `TensorwiseRule` asks for before it updates."""
        assert isinstance(self.rule, TensorwiseRule)
        t = Tracer()
        numbers = _trace_keywords(t, self.rule, self.rule.tensor_sum_terms)
        for name, value in self.rule.tensor_sum_terms(
            t, *self._trace_rule_inputs(t, scaled), **numbers
        ).items():
            trace_norm_sums(t, name, value, wide=self.wide)
        return t.build_program()

    @functools.lru_cache(maxsize=1024)  # noqa: B019
    def trace_measure_group(self, scaled: bool) -> Program:
        """Sums that a `GroupwiseRule` asks for before it updates."""
        assert isinstance(self.rule, GroupwiseRule)
        t = Tracer()
        numbers = _trace_keywords(t, self.rule, self.rule.group_sum_terms)
        for name, value in self.rule.group_sum_terms(
            t, *self._trace_rule_inputs(t, scaled), **numbers
        ).items():
            t.reduce(name, ReductionKind.SUM_OF_MAGNITUDES, value)
        return t.build_program()

    @functools.lru_cache(maxsize=1024)  # noqa: B019
    def trace_apply(
        self, scaled: bool, reply: str = "", averaged: bool = False, measured: bool = False
    ) -> Program:
        """One step; of a `MatrixRule` what comes before it, with the gradient put into `PREPARED`.

        Args:
            scaled: whether there is a loss scale.
            reply: an array that receives the new parameters as well, in the dtype that it
                is stored in: `REPLY`, or `GRADIENT` where they may take the gradient's place.
                A `MatrixRule` has none, as its parameters come later.
            averaged: whether the reply is the weight average instead.
            measured: whether the sums of `trace_measure` are taken in the same pass, for a step that
                happens whatever they are.
        """
        if isinstance(self.rule, MatrixRule):
            return self._trace_gradient_preparation(scaled)
        assert isinstance(self.rule, ElementwiseRule)
        t = Tracer()
        if measured:
            self._trace_measurements(t, scaled)
        p, *state = self.rule.update(
            t, *self._trace_rule_inputs(t, scaled), **_trace_keywords(t, self.rule, self.rule.update)
        )
        t.store(PARAMETER, p)
        for slot, value in zip(self.rule.slots(), state, strict=True):
            t.store(slot, value)
        self._clear_accumulator(t)
        average = self._update_weight_average(t, p) if self.averages else None
        if reply:
            t.store(reply, p if average is None or not averaged else average)
        return t.build_program()

    @functools.lru_cache(maxsize=1024)  # noqa: B019
    def kernel_key(self) -> tuple[object, ...]:
        """What steps compute, whatever their numbers: equal formulas share their kernels."""
        state = self.rule.slot_names, tuple(self.rule.initial_scalar_state())
        return (*state, self.trace_measure(False), self.trace_apply(False), *self.trace_common_programs())

    def trace_common_programs(self) -> Iterator[Program]:
        """The programs that every step runs whose gradient comes without a loss scale."""
        yield self.trace_measure(False)
        yield self.trace_apply(False)
        if isinstance(self.rule, TensorwiseRule):
            yield self.trace_measure_tensors(False)
        if isinstance(self.rule, GroupwiseRule):
            yield self.trace_measure_group(False)
        if self.gradient.accumulation_steps > 1:
            yield self.trace_measure_micro_batch(False)
            yield self.trace_accumulate(False)

    @functools.cached_property
    def average_program(self) -> Program:
        """The weight average of tensors that a step leaves alone."""
        t = Tracer()
        self._update_weight_average(t, t.load(PARAMETER))
        return t.build_program()

    @functools.cached_property
    def lookahead_program(self) -> Program:
        """Where the next gradient is to be taken."""
        assert isinstance(self.rule, ElementwiseRule)
        t = Tracer()
        state = [t.load(slot) for slot in self.rule.slots()]
        numbers = _trace_keywords(t, self.rule, self.rule.lookahead)
        t.store(POINT, self.rule.lookahead(t, t.load(PARAMETER), *state, **numbers))
        return t.build_program()

    def _trace_rule_inputs(self, t: Tracer, scaled: bool) -> list[Value]:
        """What the rule gets: parameter, gradient and slots, the guards' work done."""
        gradient = self._clip_gradient(t, self._prepare_gradient(t, t.load(GRADIENT), scaled))
        p = t.load(PARAMETER)
        if self.decays:
            p = p * t.scalar("guard_decay")
        return [p, gradient, *(t.load(slot) for slot in self.rule.slots())]

    def _trace_gradient_preparation(self, scaled: bool) -> Program:
        t = Tracer()
        t.store(PREPARED, self._clip_gradient(t, self._prepare_gradient(t, t.load(GRADIENT), scaled)))
        self._clear_accumulator(t)
        return t.build_program()

    def _clear_accumulator(self, t: Tracer) -> None:
        """Empties the accumulator."""
        if self.gradient.accumulation_steps > 1:
            t.store(ACCUMULATED, 0.0)

    def _unscale_gradient(self, t: Tracer, g: Value, scaled: bool) -> Value:
        return g / t.scalar("guard_loss_scale") if scaled else g

    def _prepare_gradient(self, t: Tracer, g: Value, scaled: bool) -> Value:
        """The gradient before clipping."""
        g = self._unscale_gradient(t, g, scaled)
        if self.gradient.accumulation_steps > 1:
            g = (t.load(ACCUMULATED) + g) / t.scalar("guard_accumulation_steps")
        if self.gradient.l1:
            g = g + t.scalar("guard_l1") * t.sign(t.load(PARAMETER))
        if self.gradient.l2:
            g = g + t.scalar("guard_l2") * t.load(PARAMETER)
        return g

    def _clip_gradient(self, t: Tracer, g: Value) -> Value:
        clip = self.gradient.clip
        if clip is None:
            return g
        if isinstance(clip, ClipByValue):
            return t.minimum(t.maximum(g, t.scalar("guard_low")), t.scalar("guard_high"))
        if isinstance(clip, ClipByTensorNorm):
            return g * t.segment_scalar("guard_clip")
        return g * t.scalar("guard_clip")

    def _update_weight_average(self, t: Tracer, p: Value) -> Value:
        # A mean of both, decay*average + (1 - decay)*p, would drift: its shares, each rounded,
        # do not add up to 1.
        before = t.scalar("guard_average_kept") * t.load(AVERAGE)
        average = before + t.scalar("guard_average_rate") * (p - before)
        t.store(AVERAGE, average)
        return average


def make_programs(spec: SessionSpec) -> dict[str, StepPrograms]:
    """The programs of each group by name; the default group's name is empty."""
    return {name: make_group_programs(spec, group) for name, group in spec.groups_by_name.items()}


def make_group_programs(spec: SessionSpec, group: ParameterGroup | None) -> StepPrograms:
    """The programs of one group; None stands for the default group."""
    return StepPrograms(
        rule=spec.group_rule(group),
        gradient=dataclasses.replace(spec.gradient, l1=spec.l1_factor(group), l2=spec.l2_factor(group)),
        decays=spec.weight_decay(group) != 0,
        averages=spec.weight_average is not None,
    )


def _trace_keywords(t: Tracer, rule: Rule, formula: Any) -> dict[str, Value]:
    """A number for each keyword of a rule's formula: of the call, or of each tensor."""
    parameters = inspect.signature(formula).parameters.values()
    names = [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        names += [
            name
            for name in rule.compute_scalars(1, 1.0, **rule.initial_scalar_state())
            if name not in (*names, *rule.initial_scalar_state())
        ]
    of_tensors = rule.tensor_numbers if isinstance(rule, TensorwiseRule) else ()
    return {name: t.segment_scalar(name) if name in of_tensors else t.scalar(name) for name in names}
