"""Paths of optimizers over a surface, each step taken by the server."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from optserve.client import Client
from optserve.errors import FailedPrecondition, Reason
from optserve.plotting.plot_items import Item
from optserve.plotting.surfaces import Floats, Surface
from optserve.session import SessionHandle
from optserve.specs.base import list_required
from optserve.specs.enums import ParameterPoint
from optserve.specs.optimizers import Optimizer

NAME = "point"
FAR = 10.0
"""A path ends this many times the window's extent away from its middle."""


@dataclass(frozen=True)
class Path:
    """The path of one optimizer over a surface.

    Attributes:
        label: what it is called in the picture.
        points: float64 [steps + 1, 2], the first one being where it began. Shorter where it went far
            outside the window.
        values: float64 [steps + 1], the surface there.
        diverged: whether it ended far outside the window of a surface that has a minimum.
    """

    label: str
    points: Floats
    values: Floats
    diverged: bool


def every_optimizer(client: Client) -> list[Item[Optimizer]]:
    """Every optimizer that both sides know and that needs no field."""
    served = client.capabilities().algorithms["optimizers"]
    return [
        Item(name, cast(Optimizer, cls()))
        for name, cls in Optimizer.CHOICES.items()
        if name in served and not list_required(cls)
    ]


def with_learning_rate(items: Sequence[Item[Optimizer]], rate: float) -> list[Item[Optimizer]]:
    """The same, with a learning rate for those that can have one and state none."""
    return [
        Item(i.label, dataclasses.replace(cast(Any, i.spec), learning_rate=rate))
        if getattr(i.spec, "learning_rate", rate) is None
        else i
        for i in items
    ]


def optimizer_paths(
    client: Client, items: Sequence[Item[Optimizer]], surface: Surface, start: Floats, steps: int
) -> list[Path]:
    """Each optimizer's path, taken in a session of its own that is deleted afterwards.

    Args:
        client: of the server that steps.
        items: the optimizers.
        surface: what they descend.
        start: where all begin, [2].
        steps: how many steps each takes.

    Raises:
        InvalidArgument: an optimizer is wrong.
        OptserveError: the server refused otherwise, or could not be reached.
    """
    return [_compute_path(client, item, surface, start, steps) for item in items]


def _compute_path(client: Client, item: Item[Optimizer], surface: Surface, start: Floats, steps: int) -> Path:
    session = client.create_session({NAME: start}, item.spec)
    try:
        points = np.array(_walk_surface(session, surface, start, steps))
    finally:
        session.delete()
    diverged = surface.minimum is not None and not is_near_window(points[-1], surface)
    return Path(item.label, points, surface.values_at(points), diverged)


def _walk_surface(session: SessionHandle, surface: Surface, start: Floats, steps: int) -> list[Floats]:
    """The points from ``start`` on, until they lie far outside."""
    ahead = _looks_ahead(session)
    points = [start]
    while len(points) <= steps and is_near_window(points[-1], surface):
        at = session.pull(point=ParameterPoint.LOOKAHEAD)[NAME] if ahead else points[-1]
        result = session.step({NAME: surface.gradient_at(at)}, pull=True)
        points.append(result.parameters[NAME])
    return points


def _looks_ahead(session: SessionHandle) -> bool:
    """Whether the optimizer wants its gradients taken elsewhere than at the parameters."""
    try:
        session.pull(point=ParameterPoint.LOOKAHEAD)
    except FailedPrecondition as error:
        if error.reason is not Reason.POINT_UNAVAILABLE:
            raise
        return False
    return True


def is_near_window(point: Floats, surface: Surface) -> bool:
    """Whether a point, [2], is finite and not far outside the window."""
    left, right, bottom, top = surface.window
    middle = np.array([left + right, bottom + top]) / 2
    return bool(np.all(np.abs(point - middle) <= FAR * np.array([right - left, top - bottom])))
