"""The picture of several trainings: loss against time, and against steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from demo.curves import COLORS, STYLE
from workers.run import Run

MORE_COLORS = (*COLORS, "#E69F00")


def draw(runs: Sequence[Run], path: Path) -> None:
    """Draws all trainings side by side.

    Args:
        runs: the trainings.
        path: the file to write; its suffix, .svg or .png, selects the format.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 4.8), layout="constrained")
        by_time, by_step = figure.subplots(1, 2, sharey=True)
        for run, color in zip(runs, MORE_COLORS, strict=False):
            by_time.plot(run.seconds, run.losses, color=color, label=run.mode)
            by_step.plot([step + 1 for step in run.steps], run.losses, color=color)
        by_time.axvline(runs[0].killed_at, color="gray", linestyle=":", label="a worker is killed")
        figure.suptitle("Digits, four worker processes: one is slow, one is killed on the way")
        by_time.set(title="by time", xlabel="seconds", ylabel="training loss (cross-entropy)", yscale="log")
        by_step.set(title="by step", xlabel="1 + steps of the session", xscale="log")
        figure.legend(loc="outside right upper", frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
