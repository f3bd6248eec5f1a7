"""The float64 numbers of each step: learning rates, a rule's scalars, the guards' own."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from optserve_server.sessions.spec import ClipByValue, ParameterGroup, SessionSpec


@dataclass(frozen=True)
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
    """

    def __init__(
        self,
        spec: SessionSpec,
        origins: Mapping[str, int] | None = None,
        carried: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        self._spec = spec
        self._groups: dict[str, ParameterGroup | None] = {"": None, **{g.name: g for g in spec.groups}}
        self._origins = dict.fromkeys(self._groups, 0) | dict(origins or {})
        self._carried = {
            name: dict(spec.rule(group).carry()) | dict((carried or {}).get(name, {}))
            for name, group in self._groups.items()
        }

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
        factor = 1.0 if group is None else group.learning_rate_factor
        if self._spec.schedule is not None:
            return self._spec.schedule.algorithm.rate(step) * factor
        return self._spec.rule(group).base_learning_rate * factor

    def of_step(self, step: int) -> StepNumbers:
        """The numbers of the update that follows ``step`` earlier ones. Changes nothing."""
        scalars: dict[str, dict[str, float]] = {}
        carried: dict[str, dict[str, float]] = {}
        guards = self.of_guards(step)
        for name, group in self._groups.items():
            rate = self.learning_rate(step, group)
            t = step - self._origins[name] + 1
            own = self._spec.rule(group).scalars(t, rate, **self._carried[name])
            carried[name] = {key: own[key] for key in self._carried[name]}
            decay = 1 - rate * self._spec.weight_decay(group)
            scalars[name] = {**own, **guards, "guard_decay": decay}
        return StepNumbers(self.learning_rate(step), scalars, carried)

    def commit(self, numbers: StepNumbers) -> None:
        """Keeps what the step hands to the next."""
        self._carried = numbers.carried

    def of_guards(self, step: int) -> dict[str, float]:
        """The guards' numbers that need no gradient."""
        gradient, average = self._spec.gradient, self._spec.weight_average
        numbers = {
            "guard_accumulation_steps": float(gradient.accumulation_steps),
            "guard_l1": gradient.l1,
            "guard_l2": gradient.l2,
        }
        if isinstance(gradient.clip, ClipByValue):
            numbers |= {"guard_low": gradient.clip.low, "guard_high": gradient.clip.max_value}
        if average is not None:
            # The first step copies the parameters: there is no average yet.
            kept = average.decay if step > 0 else 0.0
            numbers |= {"guard_average_kept": kept, "guard_average_added": 1 - kept}
        return numbers
