"""What the demo keeps of a training run, and how it shows five of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

mpl.use("Agg")  # a picture in a file; no window, no display needed

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000")
"""Of Okabe and Ito's palette, which colour-blind readers can tell apart."""

DASHES = ("-", (0, (5, 2)), "-", "-", "-")
"""The second run may lie on the first."""

STYLE: Any = {
    "font.size": 12,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 12,
    "figure.titlesize": 13,
    "grid.alpha": 0.3,
    "lines.linewidth": 1.8,
    "svg.hashsalt": "optserve",  # equal runs write equal files
}

FIRST_EPOCHS = 100
"""Epochs of the accuracy's panel; little happens later."""

LABEL_DISTANCE = 0.085
"""Least distance of two labels, in powers of ten of the loss."""


@dataclass
class Curves:
    """One optimizer's run.

    Attributes:
        optimizer: its name.
        losses: mean training loss of each epoch.
        accuracies: accuracy on the test set after each epoch, 0 to 1.
        steps_per_second: steps of the whole loop, gradients included.
    """

    optimizer: str
    losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    steps_per_second: float = 0.0

    def add(self, loss: float, accuracy: float) -> None:
        """Notes an epoch."""
        self.losses.append(loss)
        self.accuracies.append(accuracy)

    def newest(self) -> str:
        """The last epoch in words."""
        return f"loss {self.losses[-1]:.4f}, accuracy {self.accuracies[-1]:.0%}"


def table(runs: Sequence[Curves]) -> str:
    """The closing table, a line for each run."""
    lines = [f"{'optimizer':<12}{'final loss':>12}{'test accuracy':>16}{'steps/s':>10}"]
    for run in runs:
        numbers = f"{run.losses[-1]:>12.5f}{run.accuracies[-1]:>15.1%} {run.steps_per_second:>10.0f}"
        lines.append(f"{run.optimizer:<12}{numbers}")
    return "\n".join(lines)


def draw(runs: Sequence[Curves], path: Path) -> None:
    """Draws losses and accuracies of all runs side by side.

    Args:
        runs: the runs, each labelled at the end of its loss curve.
        path: the file to write; its suffix, .svg or .png, selects the format.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 4.6), layout="constrained")
        loss, accuracy = figure.subplots(1, 2, width_ratios=(1.7, 1))
        for run, color, dashes in zip(runs, COLORS, DASHES, strict=False):
            loss.plot(run.losses, color=color, linestyle=dashes)
            accuracy.plot(run.accuracies, color=color, linestyle=dashes)
        _label_ends(loss, runs)
        epochs = len(runs[0].losses)
        figure.suptitle(f"Iris, one dense layer, {epochs} epochs: same start, same batches, five optimizers")
        loss.set(title="Training loss (lower is better)", xlabel="epoch", ylabel="mean squared error")
        loss.set(yscale="log", xlim=(0, 1.5 * epochs))
        loss.set_xticks([tick for tick in loss.get_xticks() if 0 <= tick <= epochs])
        accuracy.set(title="Accuracy on 30 test flowers", xlabel="first epochs", ylabel="correct")
        accuracy.set(xlim=(0, min(FIRST_EPOCHS, epochs)), ylim=(0, 1.04))
        accuracy.yaxis.set_major_formatter(PercentFormatter(1.0))
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


def _label_ends(axes: Axes, runs: Sequence[Curves]) -> None:
    """Writes each run's name and last loss behind the end of its curve, at distances that can be read."""
    lowest = -math.inf
    for run, color in sorted(zip(runs, COLORS, strict=False), key=lambda pair: pair[0].losses[-1]):
        height = max(math.log10(run.losses[-1]), lowest + LABEL_DISTANCE)
        lowest = height
        end = (len(run.losses) - 1, run.losses[-1])
        place = (1.03 * len(run.losses), 10**height)
        axes.annotate(
            f"{run.optimizer} {run.losses[-1]:.3f}",
            xy=end,
            xytext=place,
            color=color,
            weight="bold",
            va="center",
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.8, "relpos": (0, 0.5)},
        )
