"""Feeds the values of a case of the family ``metrics`` to a session, wherever it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from tests.conformance.corpus import Case


class State(Protocol):
    """What the service, the contract and its clients all call alike."""

    @property
    def best_value(self) -> float | None: ...

    @property
    def waited(self) -> int: ...


class Trained(Protocol):
    """A session with one parameter, which starts from 0."""

    def step(self) -> float:
        """Takes a step on a gradient of -1; returns the learning rate used."""

    def report(self, value: float) -> tuple[Any, Any, bool]:
        """Reports val_loss; returns the states of both listeners, and whether training ended."""

    def parameter(self) -> float:
        """The parameter's value."""


def follow(name: str, case: Case, session: Trained) -> dict[str, Any]:
    """The answer to a case; ``name`` is that of its file."""
    followers: dict[str, Callable[[Sequence[float], Trained], dict[str, Any]]] = {
        "reduce_on_plateau": lower_rates,
        "early_stopping": stop_early,
    }
    return followers[name](case.inputs["values"], session)


def lower_rates(values: Sequence[float], session: Trained) -> dict[str, Any]:
    """Learning rates while a metric is reported before each step."""
    path = []
    for value in values:
        state, _, _ = session.report(value)
        path.append((session.step(), *read_monitor(state), state.cooldown))
    names = ("learning_rates", "best_values", "waited", "cooldown")
    return dict(zip(names, map(list, zip(*path, strict=True)), strict=True))


def stop_early(values: Sequence[float], session: Trained) -> dict[str, Any]:
    """What a metric that is reported after each step leads to."""
    path = []
    ended = False
    for value in values:
        session.step()
        _, state, ended = session.report(value)
        path.append(read_monitor(state))
        if ended:
            break
    bests, waits = map(list, zip(*path, strict=True))
    return {
        "best_values": bests,
        "waited": waits,
        "stopped": int(ended),
        "parameter": session.parameter(),
    }


def read_monitor(state: State) -> tuple[float, int]:
    """The best value, 0 for none, and the count."""
    return state.best_value or 0.0, state.waited
