"""The history of a session as a picture; needs matplotlib."""

from __future__ import annotations

import io
import itertools

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from optserve._transport.call import CallSequence
from optserve.history import History, read_history

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, which colour-blind readers can tell apart."""

LOGARITHMIC_RATIO = 30.0
"""Ratio of the greatest value to the least, all above 0, from which an axis is logarithmic."""


class NotebookFigure(Figure):
    """A figure that notebooks show without pyplot."""

    def _repr_png_(self) -> bytes:
        drawn = io.BytesIO()
        self.savefig(drawn, format="png")
        return drawn.getvalue()


def plot_history(name: str) -> CallSequence[Figure]:
    """Reads the history of a session, and draws it.

    Args:
        name: resource name of the session.
    """
    history = yield from read_history(name)
    return draw_history(history, name)


def draw_history(history: History, name: str) -> Figure:
    """Learning rate, gradient norms and each metric over the step, a panel for each.

    A panel is 900 pixels wide and 250 high. A session without steps has the first two panels, empty.

    Args:
        history: of the session.
        name: resource name of the session.
    """
    steps, metrics = history.steps, history.metrics
    count = 2 + len(metrics)
    figure = NotebookFigure(figsize=(9, 2.5 * count), layout="constrained")
    rate, norms, *others = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
    figure.suptitle(name.replace("$", r"\$"))
    _draw_curve(rate, steps["step"], steps["learning_rate"], PALETTE[0], "learning rate")
    _draw_curve(norms, steps["step"], steps["gradient_norm"], PALETTE[0], "gradient norm")
    if not np.array_equal(steps["gradient_norm"], steps["clipped_gradient_norm"], equal_nan=True):
        norms.plot(steps["step"], steps["clipped_gradient_norm"], color=PALETTE[1], label="after clipping")
        norms.legend(fontsize="small")
    colors = itertools.cycle(PALETTE[1:])
    for axes, (metric, values) in zip(others, metrics.items(), strict=True):
        _draw_curve(axes, values["step"], values["value"], next(colors), metric.replace("$", r"\$"))
    figure.axes[-1].set_xlabel("step")
    return figure


def _draw_curve(axes: Axes, x: np.ndarray, y: np.ndarray, color: str, label: str) -> None:
    """A curve in a panel of its own; a point has a marker if it is alone."""
    axes.plot(x, y, color=color, marker="o" if len(x) == 1 else None, label="before clipping")
    positive = y[np.isfinite(y)]
    if positive.size and positive.min() > 0 and positive.max() > LOGARITHMIC_RATIO * positive.min():
        axes.set_yscale("log")
    axes.set_ylabel(label)
    axes.margins(x=0.01)
    axes.grid(alpha=0.3)
