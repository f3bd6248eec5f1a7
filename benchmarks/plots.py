"""Pictures of a run, into docs/images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from benchmarks.growth import LARGE
from benchmarks.layers import LAYERS
from benchmarks.results import Result, Run
from benchmarks.workers import SLOW_GROUP

WIDTH, HEIGHT = 10.0, 4.2
BLUE, GREY = "#0072B2", "0.55"
LAYER_COLORS = ("#0072B2", "#56B4E9", "#009E73", "#D55E00", "#E69F00")
"""Of Okabe and Ito's palette, in the order of the layers."""
STYLE: Any = {
    "font.size": 11,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 12,
    "svg.hashsalt": "optserve",  # equal figures write equal files
}


def draw(run: Run, folder: Path) -> list[Path]:
    """Draws what the run has figures for."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    with plt.rc_context(STYLE):
        for name, group, picture in (
            ("bench_end_to_end.svg", "end to end", _end_to_end),
            ("bench_growth.svg", "growth", _growth),
            ("bench_sessions.svg", "memory", _sessions),
            ("bench_clients.svg", "clients", _clients),
            ("bench_layers.svg", "layers", _layers),
            ("bench_workers.svg", SLOW_GROUP, _slow_worker),
        ):
            if any(r.group == group for r in run.results):
                figure = picture(run)
                figure.savefig(folder / name, metadata={"Date": None})
                plt.close(figure)
                drawn.append(folder / name)
    return drawn


def _slow_worker(run: Run) -> Any:
    """Gradients per second that are used when one of four workers is ten times slower."""
    suffix = ", gradients"
    found = {r.name.removesuffix(suffix): r.value for r in run.results if r.name.endswith(suffix)}
    figure, (axis,) = _axes(1)
    bars = axis.barh(list(found)[::-1], list(found.values())[::-1], color=BLUE)
    axis.bar_label(bars, fmt="%.0f", padding=3)
    axis.set_xlabel("gradients per second that become steps")
    return figure


def _series(run: Run, group: str, name: str) -> tuple[list[int], list[float]]:
    found = sorted({(r.n, r.value) for r in run.results if (r.group, r.name) == (group, name)})
    return [n for n, _ in found], [value for _, value in found]


def _axes(columns: int) -> tuple[Any, Any]:
    figure, axes = plt.subplots(1, columns, figsize=(WIDTH, HEIGHT), layout="constrained", squeeze=False)
    return figure, axes[0]


def _line(axis: Any, run: Run, group: str, name: str, x: str, y: str, *, scale: str = "log") -> None:
    axis.plot(*_series(run, group, name), marker="o", color=BLUE, clip_on=False)
    axis.set_xscale("log", base=10)
    axis.set_yscale(scale)
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.grid(alpha=0.3)
    if scale == "linear":
        axis.set_ylim(bottom=0)


def _growth(run: Run) -> Any:
    """Time and memory against size, with the lines that were fitted."""
    figure, axes = _axes(2)
    for axis, what, name, unit, factor in (
        (axes[0], "time", "time of a step", "ms", 1e-6),
        (axes[1], "memory", "memory of a session", "MiB", 1 / (1 << 20)),
    ):
        _line(axis, run, "growth", name, "parameters", unit)
        axis.set_title(name)
        sizes, _ = _series(run, "growth", name)
        parts = [
            _series(run, "growth", f"{what} {part}")[1]
            for part in ("where the line begins", "for each parameter")
        ]
        if all(parts):
            (fixed,), (each,) = parts
            grid = np.geomspace(min(LARGE, sizes[-1]), sizes[-1], 200)
            line = factor * (fixed + each * grid)
            axis.plot(grid[line > 0], line[line > 0], "--", color=GREY, label="line of least squares")
            axis.legend()
    return figure


def _sessions(run: Run) -> Any:
    """Time and memory against the number of small sessions."""
    figure, axes = _axes(2)
    _line(axes[0], run, "memory", "step, by number of sessions", "sessions", "us", scale="linear")
    axes[0].set_title("unary step of 1000 parameters")
    _line(axes[1], run, "memory", "server, by number of sessions", "sessions", "MiB", scale="linear")
    axes[1].set_title("memory of the server")
    return figure


def _clients(run: Run) -> Any:
    """Steps and memory against the number of clients."""
    figure, axes = _axes(2)
    _line(
        axes[0], run, "clients", "stream, by number of clients", "clients", "steps/s in all", scale="linear"
    )
    axes[0].set_title("steps of 100,000 parameters")
    _line(axes[1], run, "clients", "server, by number of clients", "clients", "MiB", scale="linear")
    axes[1].set_title("memory of the server")
    for axis in axes:
        axis.set_xscale("log", base=2)
    return figure


def _layers(run: Run) -> Any:
    """The share of each layer in a step over gRPC, a bar for each side and size."""
    shares = {(r.name, r.n): r.value for r in run.results if r.group == "layers" and r.unit == "%"}
    bars = [(side, n) for side in ("client", "server", "both") for n in sorted({n for _, n in shares})[::-1]]
    labels = [f"{side}, {n:,} parameters" for side, n in bars]
    figure, axes = _axes(1)
    left = np.zeros(len(bars))
    for layer, color in zip(LAYERS, LAYER_COLORS, strict=True):
        widths = np.array([shares.get((f"{side}, {layer}", n), 0.0) for side, n in bars])
        axes[0].barh(labels, widths, left=left, color=color, label=layer, edgecolor="white")
        left += widths
    axes[0].set(xlabel="percent of the processor time of a step over gRPC", xlim=(0, 100))
    figure.legend(loc="outside upper center", ncols=len(LAYERS), frameon=False)
    return figure


def _end_to_end(run: Run) -> Any:
    """Steps per second of all contenders, a panel for each size; of peers with two settings, the better."""
    found = [r for r in run.results if r.group == "end to end"]
    sizes = sorted({r.n for r in found})
    figure, axes = plt.subplots(1, len(sizes), figsize=(WIDTH, 4.8), layout="constrained", squeeze=False)
    best = {n: _best([r for r in found if r.n == n]) for n in sizes}
    largest = best[sizes[-1]]
    order = sorted({name for values in best.values() for name in values}, key=lambda x: largest.get(x, 0))
    for axis, n in zip(axes[0], sizes, strict=True):
        values = [best[n].get(name, 0.0) for name in order]
        colors = [BLUE if name.startswith(("stream", "shared")) else GREY for name in order]
        bars = axis.barh(order, values, color=colors)
        axis.bar_label(bars, [f"{value:,.0f}" for value in values], padding=3, fontsize=9)
        axis.set_title(f"{n:,} parameters")
        axis.set(xlabel="steps/s", xlim=(0, 1.3 * max(values)))
        axis.locator_params(axis="x", nbins=3)
        axis.tick_params(labelleft=axis is axes[0][0], labelsize=10)
    figure.suptitle("Gradient up, Adam, parameters down. Blue: optserve. Grey: others.", fontsize=12)
    return figure


def _best(results: Sequence[Result]) -> dict[str, float]:
    """The first figure of each contender, and the greatest of settings that differ in OMP_NUM_THREADS."""
    values: dict[str, float] = {}
    for r in results:
        values.setdefault(r.name, r.value)
    best: dict[str, float] = {}
    for name, value in values.items():
        contender = name.partition(", OMP")[0]
        best[contender] = max(value, best.get(contender, 0.0))
    return best
