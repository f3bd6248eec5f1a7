"""The float64 numbers of each step: learning rates, a rule's scalars, the guards' own."""

from __future__ import annotations

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
    """Computes each step's numbers, and keeps those that a rule carries on."""

    def __init__(self, spec: SessionSpec) -> None:
        self._spec = spec
        self._groups: dict[str, ParameterGroup | None] = {"": None, **{g.name: g for g in spec.groups}}
        self._carried = {name: dict(spec.rule(group).carry()) for name, group in self._groups.items()}

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
            own = self._spec.rule(group).scalars(step + 1, rate, **self._carried[name])
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
