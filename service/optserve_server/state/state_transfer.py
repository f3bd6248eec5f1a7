"""Transfer of optimizer state when a session changes its rule."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.optimizers.base import Rule
from optserve_server.optimizers.matrix import MatrixRule
from optserve_server.programs.step_programs import StepPrograms


@dataclass(frozen=True)
class StateTransfer:
    """Transfer of one group's slots.

    Attributes:
        group: the group; empty for the default group.
        carried: slots that stay as they are.
        dropped: slots that are gone.
        started: slots that begin with their first values.
        restarted: whether the rule counts its steps from 1 again.
    """

    group: str
    carried: tuple[str, ...]
    dropped: tuple[str, ...]
    started: tuple[str, ...]
    restarted: bool

    @classmethod
    def between(cls, group: str, before: StepPrograms, after: StepPrograms) -> StateTransfer:
        """The transfer from one rule's slots to another's.

        A slot is carried where both rules have one of that name, for equal names mean equal
        averages. Slots that are counted by steps are carried only if all of them can be, with
        the numbers that the rule carries on; otherwise they and the count start again.
        """
        old, new = list(before.rule.slot_names), list(after.rule.slot_names)
        counted = after.rule.step_dependent_slots
        if any(isinstance(programs.rule, MatrixRule) for programs in (before, after)):
            # Their state has shapes of its own, which only the same rule understands.
            old = old if _have_equal_shapes(before.rule, after.rule) else []
        whole = counted <= set(old) and set(after.rule.initial_scalar_state()) <= set(
            before.rule.initial_scalar_state()
        )
        carried = [slot for slot in new if slot in old and (whole or slot not in counted)]
        restarted = not whole or (bool(new) and not carried)
        return cls(
            group,
            tuple(carried),
            tuple(slot for slot in before.rule.slot_names if slot not in carried),
            tuple(slot for slot in new if slot not in carried),
            restarted,
        )


def _have_equal_shapes(before: Rule, after: Rule) -> bool:
    """Whether two rules, at least one of which is a `MatrixRule`, have state of equal shapes."""
    return (
        isinstance(before, MatrixRule)
        and isinstance(after, MatrixRule)
        and type(before) is type(after)
        and before.state_shape_hyperparameters == after.state_shape_hyperparameters
    )
