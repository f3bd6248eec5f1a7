"""What a rule is: one optimizer's mathematics, with explicit state."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from abc import abstractmethod
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from optserve_server.arrays.ops import Ops, Value
from optserve_server.hyperparameters import Algorithm, declarations, hyper


@dataclasses.dataclass(frozen=True)
class Rule(Algorithm):
    """What every rule has, whatever it looks at.

    The frame, with parameter p, gradient g, step size lr and step t counted from 1:
    a first moment m of the gradients, a second moment V, and p -= lr * m/sqrt(V).
    """

    has_rate: ClassVar[bool] = True
    """Whether a learning rate takes part in every step, so that a schedule means something."""

    # Every rule declares it again with its own default; it stays the first field.
    learning_rate: float = hyper(ge=0)

    @property
    def base_learning_rate(self) -> float:
        """The learning rate of a session without a schedule."""
        return self.learning_rate

    @property
    def decoupled_weight_decay(self) -> float:
        """The decay wd of p -= lr*wd*p that comes with the rule; most have none."""
        return 0.0

    def slots(self) -> Mapping[str, float]:
        """The state arrays, shaped like the parameters, with their initial values."""
        return {}

    @property
    def slot_names(self) -> tuple[str, ...]:
        """The names of all state arrays, whatever their shape."""
        return tuple(self.slots())

    def state_elements(self, shape: tuple[int, ...]) -> int:
        """How many numbers of state a parameter of this shape has."""
        return len(self.slots()) * math.prod(shape)

    @property
    def step_dependent_slots(self) -> frozenset[str]:
        """The slots that mean something only beside the number of steps they have seen.

        When a session changes its rule they are carried over together, or initialized again
        together with t.
        """
        return frozenset()

    def initial_scalar_state(self) -> Mapping[str, float]:
        """The numbers that one step hands to the next, with their initial values."""
        return {}

    @abstractmethod
    def compute_scalars(self, step: int, learning_rate: float, **carried: float) -> dict[str, float]:
        """The float64 numbers of one step.

        Args:
            step: t, counted from 1.
            learning_rate: lr of this step.
            carried: the numbers named by `initial_scalar_state`.

        Returns:
            The keyword arguments of `update`, and the new value of every number named by
            `initial_scalar_state`, which `update` does not get unless it has a parameter of that name.
        """

    @property
    def has_lookahead(self) -> bool:
        """Whether gradients are to be taken at another point than the parameters."""
        return False


@dataclasses.dataclass(frozen=True)
class ElementwiseRule(Rule):
    """A rule that treats every element alike."""

    @functools.cached_property
    def constants(self) -> dict[str, float]:
        """The keyword arguments of `update` that are the same in every step.

        A keyword that has a hyperparameter's name is that hyperparameter, and ``rest_1`` is 1 - beta1.
        """
        names, betas = _constant_keywords(type(self))
        found = {name: getattr(self, name) for name in names}
        return found | {name: 1 - getattr(self, beta) for name, beta in betas.items()}

    def compute_scalars(self, step: int, learning_rate: float, **carried: float) -> dict[str, float]:
        return {**self.constants, "rate": learning_rate}

    @abstractmethod
    def update(self, ops: Ops, p: Value, g: Value, *state: Any, **numbers: Any) -> tuple[Value, ...]:
        """One step on one element: the new p, then the new slots in their order.

        Straight-line arithmetic. Only hyperparameters that are enums or booleans, or whose
        zero switches something off (a slot, an epsilon), may decide a Python ``if``; all
        other hyperparameters are keyword arguments, so that one program serves every value of
        them.
        """

    def lookahead(self, ops: Ops, p: Value, *state: Any, **numbers: Any) -> Value:
        """The point at which the next gradient is to be taken, from the next step's numbers."""
        return p


@functools.cache
def _constant_keywords(rule: type[ElementwiseRule]) -> tuple[Collection[str], Mapping[str, str]]:
    """The keywords of a rule's `update` that are hyperparameters, and its rests with their betas."""
    keywords, known = inspect.signature(rule.update).parameters, declarations(rule)
    betas = {name: name.replace("rest_", "beta") for name in keywords if name.startswith("rest_")}
    return [name for name in keywords if name in known], betas
