"""What the demo keeps of a training run, and how it shows five of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

mpl.use("Agg")  # a picture in a file; no window, no display needed


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
    """Draws losses and accuracies of all runs side by side into a PNG."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    for run in runs:
        loss.plot(run.losses, label=run.optimizer)
        accuracy.plot(run.accuracies, label=run.optimizer)
    loss.set(title="Iris: training loss", xlabel="epoch", ylabel="mean squared error", yscale="log")
    accuracy.set(title="Iris: test accuracy", xlabel="epoch", ylim=(0, 1.03))
    accuracy.legend(loc="lower right")
    for axes in (loss, accuracy):
        axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
