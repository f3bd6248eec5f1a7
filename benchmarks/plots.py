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
from benchmarks.results import Result, Run

WIDTH, HEIGHT = 10.0, 4.0
GREY = "0.6"


def draw(run: Run, folder: Path) -> list[Path]:
    """Draws what the run has figures for."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, group, picture in (
        ("bench_end_to_end.png", "end to end", _end_to_end),
        ("bench_growth.png", "growth", _growth),
        ("bench_sessions.png", "memory", _sessions),
        ("bench_clients.png", "clients", _clients),
        ("bench_rooms.png", "rooms", _rooms),
    ):
        if any(r.group == group for r in run.results):
            figure = picture(run)
            figure.savefig(folder / name, dpi=110)
            plt.close(figure)
            drawn.append(folder / name)
    return drawn


def _series(run: Run, group: str, name: str) -> tuple[list[int], list[float]]:
    found = sorted({(r.n, r.value) for r in run.results if (r.group, r.name) == (group, name)})
    return [n for n, _ in found], [value for _, value in found]


def _axes(columns: int) -> tuple[Any, Any]:
    figure, axes = plt.subplots(1, columns, figsize=(WIDTH, HEIGHT), layout="constrained", squeeze=False)
    return figure, axes[0]


def _line(axis: Any, run: Run, group: str, name: str, x: str, y: str, *, scale: str = "log") -> None:
    axis.plot(*_series(run, group, name), marker="o")
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


def _rooms(run: Run) -> Any:
    """The share of each room of a step, a bar for each side and size."""
    found = [r for r in run.results if r.group == "rooms"]
    rooms = [*sorted({_room(r) for r in found} - {"waiting"}), "waiting"]
    colours = dict(zip(rooms, [*plt.get_cmap("tab20").colors[: len(rooms) - 1], "0.9"], strict=True))
    bars = sorted({(r.name.partition(", ")[0], r.n) for r in found}, reverse=True)
    figure, axes = _axes(1)
    left = dict.fromkeys(bars, 0.0)
    for room in rooms:
        shares = [
            sum(r.ratio or 0 for r in found if r.name == f"{side}, {room}" and r.n == n) for side, n in bars
        ]
        labels = [f"{side}, n = {n:,}" for side, n in bars]
        axes[0].barh(labels, shares, left=list(left.values()), color=colours[room], label=room)
        left = {bar: start + share for (bar, start), share in zip(left.items(), shares, strict=True)}
    axes[0].set_xlabel("share of the step")
    axes[0].set_xlim(0, 1)
    axes[0].legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize="small")
    return figure


def _room(result: Result) -> str:
    return result.name.partition(", ")[2]


def _end_to_end(run: Run) -> Any:
    """Steps per second of all contenders, a panel for each size."""
    found = [r for r in run.results if r.group == "end to end"]
    sizes = sorted({r.n for r in found})
    figure, axes = _axes(len(sizes))
    for axis, n in zip(axes, sizes, strict=True):
        values: dict[str, float] = {}
        for r in found:
            if r.n == n:
                values.setdefault(r.name, r.value)
        _bars(axis, values)
        axis.set_title(f"{n:,} parameters", fontsize="medium")
    return figure


def _bars(axis: Any, values: dict[str, float]) -> None:
    names: Sequence[str] = sorted(values, key=lambda name: values[name])
    colours = ["tab:blue" if name.startswith(("stream", "shared")) else GREY for name in names]
    axis.barh(names, [values[name] for name in names], color=colours)
    axis.set_xlabel("steps/s")
    axis.tick_params(labelsize="small")
