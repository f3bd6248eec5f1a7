"""The float64 numbers of each step: learning rates, a rule's scalars, the guards' own."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from optserve_server.sessions.spec import ClipByValue, ParameterGroup, SessionSpec


@dataclass(slots=True)
class StepNumbers:
    """The numbers of one step.

    Attributes:
        learning_rate: the session's; groups multiply it by their factor.
        scalars: every program's numbers, by group.
        carried: what rules hand to the next step, by group.
    """

    learning_rate: float
    scalars: dict[str, dict[str, float]]
    carried: dict[str, dict[str, float]]


class Numbers:
    """Computes each step's numbers, and keeps those that a rule carries on.

    Args:
        spec: the session's specification.
        origins: the session's step at which each group's rule began to count, by group.
        carried: what each group's rule handed on so far, by group.

    Attributes:
        reduction: what reduce_on_plateau has come to multiply rates by.
    """

    def __init__(
        self,
        spec: SessionSpec,
        origins: Mapping[str, int] | None = None,
        carried: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        self._spec = spec
        self.reduction = 1.0
        self._groups: dict[str, ParameterGroup | None] = {"": None, **{g.name: g for g in spec.groups}}
        self._rules = [(name, spec.rule(g), spec.weight_decay(g)) for name, g in self._groups.items()]
        varies = spec.schedule is not None or spec.reduce_on_plateau is not None
        self._constant = None if varies else [self._rate(g, None, 1.0) for g in self._groups.values()]
        self._guards = self._constant_guards()
        self._origins = dict.fromkeys(self._groups, 0) | dict(origins or {})
        self._carried = {
            name: dict(spec.rule(group).carry()) | dict((carried or {}).get(name, {}))
            for name, group in self._groups.items()
        }

    @property
    def origins(self) -> Mapping[str, int]:
        """The session's step at which each group's rule began to count, by group."""
        return self._origins

    @property
    def carried(self) -> Mapping[str, Mapping[str, float]]:
        """What each group's rule has handed on so far, by group."""
        return self._carried

    def switched(self, spec: SessionSpec, step: int, restarted: Collection[str]) -> Numbers:
        """The numbers under another specification from ``step`` on.

        Args:
            spec: the new specification, of the same groups.
            step: the session's step.
            restarted: the groups whose rules count their steps from 1 again.
        """
        origins = {name: step if name in restarted else at for name, at in self._origins.items()}
        carried = {}
        for name, numbers in self._carried.items():
            known = spec.rule(self._group_of(spec, name)).carry()
            carried[name] = {} if name in restarted else {k: v for k, v in numbers.items() if k in known}
        return Numbers(spec, origins, carried)

    @staticmethod
    def _group_of(spec: SessionSpec, name: str) -> ParameterGroup | None:
        return next((group for group in spec.groups if group.name == name), None)

    def learning_rate(self, step: int, group: ParameterGroup | None = None) -> float:
        """The learning rate of the update that follows ``step`` earlier ones."""
        return self._rate(group, self._scheduled(step), self.reduction)

    def drop(self, step: int, reduction: float) -> float:
        """By how much another ``reduction`` would lower the learning rate of any group, at most."""
        scheduled = self._scheduled(step)
        return max(
            self._rate(group, scheduled, self.reduction) - self._rate(group, scheduled, reduction)
            for group in self._groups.values()
        )

    def _scheduled(self, step: int) -> float | None:
        return None if self._spec.schedule is None else self._spec.schedule.algorithm.rate(step)

    def _rate(self, group: ParameterGroup | None, scheduled: float | None, reduction: float) -> float:
        """A group's learning rate where the schedule, if there is one, says ``scheduled``."""
        factor = 1.0 if group is None else group.learning_rate_factor
        base = self._spec.rule(group).base_learning_rate if scheduled is None else scheduled
        plateau = self._spec.reduce_on_plateau
        return base * factor if plateau is None else plateau.reduced(base * factor, reduction)

    def of_step(self, step: int, guards: Mapping[str, float] | None = None) -> StepNumbers:
        """The numbers of the update that follows ``step`` earlier ones. Changes nothing.

        Args:
            step: how many there were.
            guards: what `of_gradient` gave for the step; None where there is no gradient.
        """
        scalars: dict[str, dict[str, float]] = {}
        carried: dict[str, dict[str, float]] = {}
        guards = guards or self.of_guards(step)
        rates = self._rates(step)
        for (name, rule, decay), rate in zip(self._rules, rates, strict=True):
            before = self._carried[name]
            own = rule.scalars(step - self._origins[name] + 1, rate, **before)
            carried[name] = {key: own[key] for key in before} if before else before
            scalars[name] = {**own, **guards, "guard_decay": 1 - rate * decay}
        return StepNumbers(rates[0], scalars, carried)

    def _rates(self, step: int) -> Sequence[float]:
        """The groups' learning rates, the session's first."""
        if self._constant is not None:
            return self._constant
        scheduled = self._scheduled(step)
        return [self._rate(group, scheduled, self.reduction) for group in self._groups.values()]

    def commit(self, numbers: StepNumbers) -> None:
        """Keeps what the step hands to the next."""
        self._carried = numbers.carried

    def of_gradient(self, step: int, loss_scale: float) -> tuple[bool, dict[str, float]]:
        """Whether a gradient is to be divided by its scale, and the guards' numbers for it."""
        numbers = self.of_guards(step)
        if loss_scale == 1.0:
            return False, numbers
        return True, numbers | {"guard_loss_scale": loss_scale}

    def of_guards(self, step: int) -> dict[str, float]:
        """The guards' numbers that need no gradient; not to be changed."""
        average = self._spec.weight_average
        if average is None:
            return self._guards
        # What stood there before the first step is no average yet.
        kept = 1.0 if step else 0.0
        return self._guards | {"guard_average_kept": kept, "guard_average_rate": average.rate(step + 1)}

    def _constant_guards(self) -> dict[str, float]:
        gradient = self._spec.gradient
        numbers = {
            "guard_accumulation_steps": float(gradient.accumulation_steps),
            "guard_l1": gradient.l1,
            "guard_l2": gradient.l2,
        }
        if isinstance(gradient.clip, ClipByValue):
            numbers |= {"guard_low": gradient.clip.low, "guard_high": gradient.clip.max_value}
        return numbers
