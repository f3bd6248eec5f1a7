"""The float64 numbers of each step: learning rates, a rule's scalars, those of gradient transforms."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from optserve_server.optimizers.groupwise import GroupwiseRule
from optserve_server.programs.effective_hyperparameters import EffectiveHyperparameters, depends_on_step_count
from optserve_server.programs.step_counters import ScalarState, StepCounter, advance_counters
from optserve_server.spec.override import Override
from optserve_server.spec.session_spec import ClipByValue, ParameterGroup, SessionSpec, StepCounting

OVERRIDES_KEPT = 64
"""Sets of overrides whose rules are kept ready: a schedule of the client's makes one for each step."""


@dataclass(slots=True)
class StepScalars:
    """The numbers of one step.

    Attributes:
        learning_rate: the session's; groups multiply it by their factor.
        scalars: every program's numbers, for each counter.
        carried: what rules hand to the next step, for each counter.
    """

    learning_rate: float
    scalars: list[dict[str, float]]
    carried: list[ScalarState]


class SessionScalars:
    """Computes each step's numbers; holds the step counts and the numbers that rules carry to the next step.

    Args:
        spec: the session's specification.
        members: names of the tensors of each group that has any.
        counters: what each group's rule has counted so far; nothing yet if None.

    Attributes:
        counters: what each group's rule has counted so far. Where the specification counts steps by
            tensor, tensors of one group that had gradients at different steps have counters of their own.
        version: changes when tensors change their counters.
        reduction: the factor of reduce_on_plateau on learning rates.
    """

    def __init__(
        self,
        spec: SessionSpec,
        members: Mapping[str, Collection[str]],
        counters: Sequence[StepCounter] | None = None,
    ) -> None:
        self._spec, self._members = spec, members
        self.reduction = 1.0
        self._groups = spec.groups_by_name
        varies = spec.schedule is not None or spec.reduce_on_plateau is not None
        rates = {name: self._group_rate(g, None, 1.0) for name, g in self._groups.items()}
        self._constant = None if varies else rates
        plain = EffectiveHyperparameters(spec)
        self._transform_scalars = self._constant_transforms(plain)
        self._plain = plain
        self._overridden: OrderedDict[tuple[Override, ...], EffectiveHyperparameters] = OrderedDict()
        self.version = 0
        self.counters = (
            list(counters) if counters is not None else [self._make_counter(name) for name in self._groups]
        )
        by_tensor = spec.step_counting is StepCounting.PER_TENSOR
        counts = any(depends_on_step_count(spec.group_rule(g)) for g in self._groups.values())
        self._counts_by_tensor = by_tensor and counts
        groupwise = any(isinstance(rule, GroupwiseRule) for rule in plain.rules.values())
        self._is_constant = not (varies or counts or groupwise)
        self._ahead: tuple[int, float, StepScalars] | None = None

    def _make_counter(self, name: str) -> StepCounter:
        return StepCounter(name, 0, dict(self._spec.group_rule(self._groups[name]).initial_scalar_state()))

    def replace_spec(self, spec: SessionSpec, restarted: Collection[str]) -> SessionScalars:
        """Returns the scalars under another specification of the same groups.

        Args:
            spec: the new specification.
            restarted: the groups whose rules count their steps from 1 again.
        """
        numbers = SessionScalars(spec, self._members)
        kept = []
        for counter in self.counters:
            if counter.group not in restarted:
                known = spec.group_rule(numbers._groups[counter.group]).initial_scalar_state()
                carried = {**known, **{k: v for k, v in counter.scalar_state.items() if k in known}}
                kept.append(replace(counter, scalar_state=carried))
        numbers.counters = [*kept, *(counter for counter in numbers.counters if counter.group in restarted)]
        return numbers

    def counter_index(self, tensor: str, group: str) -> int:
        """The position of a tensor's counter in `counters`."""
        for position, counter in enumerate(self.counters):
            if counter.group == group and (counter.tensors is None or tensor in counter.tensors):
                return position
        raise KeyError(tensor)

    def count_step(self, numbers: StepScalars, covered: Collection[str] | None) -> None:
        """Counts a step.

        Args:
            numbers: its numbers.
            covered: names of the tensors that had a gradient; None for all that can have one.
        """
        if self._counts_by_tensor and covered is not None:
            self.counters = advance_counters(self.counters, numbers.carried, self._members, covered)
            self.version += 1
            return
        for counter, carried in zip(self.counters, numbers.carried, strict=True):
            counter.count += 1
            counter.scalar_state = carried

    def learning_rate(self, step: int, group: ParameterGroup | None = None) -> float:
        """The learning rate of the update that follows ``step`` earlier ones."""
        return self._group_rate(group, self._schedule_rate(step), self.reduction)

    def compute_rate_drop(self, step: int, reduction: float) -> float:
        """By how much another ``reduction`` would lower the learning rate of any group, at most."""
        scheduled = self._schedule_rate(step)
        return max(
            self._group_rate(group, scheduled, self.reduction) - self._group_rate(group, scheduled, reduction)
            for group in self._groups.values()
        )

    def make_damping_overrides(
        self, step: int, overrides: tuple[Override, ...], factor: float
    ) -> tuple[Override, ...]:
        """Overrides that multiply every group's learning rate of a step by ``factor``.

        Args:
            step: how many steps there were.
            overrides: those of the step.
            factor: the factor.
        """
        chosen = self.effective_hyperparameters(overrides) if overrides else self._plain
        scheduled = self._schedule_rate(step)
        rates = {name: chosen.rates.get(name, scheduled) for name in self._groups}
        return tuple(
            Override(
                name, "learning_rate", factor * (chosen.rules[name].base_learning_rate if r is None else r)
            )
            for name, r in rates.items()
        )

    def _schedule_rate(self, step: int) -> float | None:
        return None if self._spec.schedule is None else self._spec.schedule.algorithm.rate(step)

    def _group_rate(self, group: ParameterGroup | None, scheduled: float | None, reduction: float) -> float:
        """A group's learning rate if the schedule, or an override, says ``scheduled``."""
        factor = 1.0 if group is None else group.learning_rate_factor
        base = self._spec.group_rule(group).base_learning_rate if scheduled is None else scheduled
        plateau = self._spec.reduce_on_plateau
        return base * factor if plateau is None else plateau.reduce_rate(base * factor, reduction)

    def compute_step_scalars(
        self,
        step: int,
        guards: Mapping[str, Mapping[str, float]] | None = None,
        overrides: tuple[Override, ...] = (),
    ) -> StepScalars:
        """The numbers of the update that follows ``step`` earlier ones. Changes nothing.

        Args:
            step: how many there were.
            guards: what `compute_transform_scalars` returned for the step; None if there is no gradient.
            overrides: hyperparameters that have other values in this step.
        """
        guards = guards or self.compute_transform_scalars(step, 1.0)
        is_plain = guards is self._transform_scalars and not overrides
        if is_plain and self._ahead is not None:
            known_step, reduction, numbers = self._ahead
            if self._is_constant:
                return numbers
            self._ahead = None  # a step adds to them what it measures
            if known_step == step and reduction == self.reduction:
                return numbers
        chosen = self._plain if not overrides else self.effective_hyperparameters(overrides)
        constant = None if overrides else self._constant
        rates = constant or self._rates_by_group(step, chosen)
        scalars: list[dict[str, float]] = []
        carried: list[ScalarState] = []
        for counter in self.counters:
            name, before = counter.group, counter.scalar_state
            rate = rates[name]
            own = chosen.rules[name].compute_scalars(counter.count + 1, rate, **before)
            carried.append({key: own[key] for key in before} if before else before)
            scalars.append({**own, **guards[name], "guard_decay": 1 - rate * chosen.decays[name]})
        numbers = StepScalars(rates[""], scalars, carried)
        if is_plain and self._is_constant:
            self._ahead = step, self.reduction, numbers
        return numbers

    def compute_ahead(self, step: int) -> None:
        """Computes the numbers of a plain step that follows ``step`` earlier ones before it comes."""
        if self._ahead is None and self._spec.weight_average is None:
            self._ahead = step, self.reduction, self.compute_step_scalars(step)

    def _rates_by_group(self, step: int, chosen: EffectiveHyperparameters) -> Mapping[str, float]:
        """Each group's learning rate, by name."""
        scheduled = self._schedule_rate(step)
        return {
            name: self._group_rate(group, chosen.rates.get(name, scheduled), self.reduction)
            for name, group in self._groups.items()
        }

    def effective_hyperparameters(self, overrides: tuple[Override, ...]) -> EffectiveHyperparameters:
        """What holds for a step with overrides; kept for the next step with the same ones.

        Raises:
            DomainError: what `EffectiveHyperparameters` raises.
        """
        known = self._overridden.get(overrides)
        if known is None:
            known = self._overridden[overrides] = EffectiveHyperparameters(self._spec, overrides)
            if len(self._overridden) > OVERRIDES_KEPT:
                self._overridden.popitem(last=False)
        return known

    def compute_transform_scalars(
        self, step: int, loss_scale: float, overrides: tuple[Override, ...] = ()
    ) -> Mapping[str, Mapping[str, float]]:
        """The numbers of a gradient's preprocessing, by group; not to be changed."""
        numbers = (
            self._transform_scalars
            if not overrides
            else self._constant_transforms(self.effective_hyperparameters(overrides))
        )
        average = self._spec.weight_average
        if average is None and loss_scale == 1.0:
            return numbers
        own: dict[str, float] = {}
        if average is not None:
            # Before the first step there is no average yet, whatever its array holds.
            own = {
                "guard_average_kept": 1.0 if step else 0.0,
                "guard_average_rate": average.averaging_rate(step + 1),
            }
        if loss_scale != 1.0:
            own["guard_loss_scale"] = loss_scale
        return {name: {**of, **own} for name, of in numbers.items()}

    def _constant_transforms(self, chosen: EffectiveHyperparameters) -> dict[str, dict[str, float]]:
        gradient = self._spec.gradient
        numbers = {"guard_accumulation_steps": float(gradient.accumulation_steps)}
        if isinstance(gradient.clip, ClipByValue):
            numbers |= {"guard_low": gradient.clip.low, "guard_high": gradient.clip.max_value}
        return {
            name: {**numbers, "guard_l1": chosen.l1[name], "guard_l2": chosen.l2[name]}
            for name in self._groups
        }
