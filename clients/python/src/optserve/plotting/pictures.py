"""The pictures themselves, drawn with matplotlib."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import TypeAlias

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from optserve.plotting.activations import ActivationCurve
from optserve.plotting.history_figure import PALETTE
from optserve.plotting.losses import LossCurve
from optserve.plotting.optimizer_paths import Path
from optserve.plotting.schedules import ScheduleCurve
from optserve.plotting.surfaces import Floats, Surface

DPI = 100
COLORS = 256
COLUMNS = 4
LABEL_WIDTH = 100
"""Characters of a legend's line, beyond which it is broken."""
LEAST_DESCENT = 1e-12
"""Least distance from the minimum's value that is drawn; what is less lies on this line."""
Color: TypeAlias = str | tuple[float, float, float, float]


def save_figure(figure: Figure, path: FilePath) -> None:
    """Writes an SVG or a PDF to a path that ends so, and a PNG to any other; makes missing folders.

    A PNG has at most 256 colors: lines on white need no more, and the file is a third as large.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    undated = {".svg": "Date", ".pdf": "CreationDate"}.get(path.suffix)
    if undated is not None:
        figure.savefig(path, format=path.suffix[1:], metadata={undated: None})
        return
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    image = Image.open(drawn).convert("RGB")
    image.quantize(COLORS, dither=Image.Dither.NONE).save(path, format="png", optimize=True)


def draw_schedules(curves: Sequence[ScheduleCurve], log: bool = False) -> Figure:
    """Learning rates over steps, 900 pixels wide and 500 high."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for curve, color in zip(curves, _choose_colors(len(curves)), strict=True):
        axes.plot(curve.steps, curve.rates, color=color, label=textwrap.fill(curve.label, LABEL_WIDTH))
    title = "Learning rate schedule" + ("s" if len(curves) > 1 else "")
    axes.set(title=title, xlabel="step", ylabel="learning rate", yscale="log" if log else "linear")
    axes.margins(x=0.01)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower left", fontsize="small")
    return figure


def draw_activations(curves: Sequence[ActivationCurve]) -> Figure:
    """Each activation with its derivative.

    One fills 700 by 500 pixels; several share a sheet, 1200 pixels wide if there are more
    than three, 250 high for each row.
    """
    if len(curves) == 1:
        figure = Figure(figsize=(7, 5), layout="constrained")
        _draw_activation(figure.subplots(), curves[0], "medium")
    else:
        figure, panels = _make_panels(len(curves), height=2.5)
        for axes, curve in zip(panels, curves, strict=True):
            _draw_activation(axes, curve, "small")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


def _draw_activation(axes: Axes, curve: ActivationCurve, size: str) -> None:
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.axvline(0, color="0.6", linewidth=0.8)
    axes.plot(curve.x, curve.y, color=PALETTE[0], label="activation f(x)")
    axes.plot(curve.x, curve.derivative, "--", color=PALETTE[1], label="derivative df/dx")
    axes.set_title(textwrap.fill(curve.label, 34 if size == "small" else 60), fontsize=size)
    axes.margins(x=0.02, y=0.08)
    axes.grid(alpha=0.3)


def draw_losses(curves: Sequence[LossCurve], target: float) -> Figure:
    """Losses over the prediction, and their derivatives beside them; 1200 by 500 pixels."""
    figure = Figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for curve, color in zip(curves, _choose_colors(len(curves)), strict=True):
        label = textwrap.fill(curve.label, LABEL_WIDTH)
        left.plot(curve.predictions, curve.values, color=color, label=label)
        right.plot(curve.predictions, curve.derivatives, color=color)
    left.set(title=f"Loss for the target {target:g}", xlabel="prediction p", ylabel="loss")
    right.set(title="derivative dloss/dp", xlabel="prediction p")
    for axes in (left, right):
        axes.margins(x=0.02)
        axes.grid(alpha=0.3)
    columns = _legend_columns(left.get_legend_handles_labels()[1])
    figure.legend(loc="outside lower center", ncols=columns, fontsize="small")
    return figure


def draw_paths(paths: Sequence[Path], surface: Surface) -> Figure:
    """Paths on one contour, and the surface's value at each step beside it; 1200 by 560 pixels."""
    figure = Figure(figsize=(12, 5.6), layout="constrained")
    contour, descent = figure.subplots(1, 2, width_ratios=(1.25, 1))
    _draw_surface(contour, surface)
    contour.set(title=f"{surface.name}: {surface.formula}", xlabel="x", ylabel="y")
    for path, color in zip(paths, _choose_colors(len(paths)), strict=True):
        label = textwrap.fill(_path_label(path), LABEL_WIDTH // 2)
        _draw_path(contour, path, color, label)
        above_minimum = path.values - _minimum_value(surface)
        if surface.minimum is not None:
            above_minimum = np.maximum(above_minimum, LEAST_DESCENT)
        descent.plot(above_minimum, color=color)
    above = surface.minimum is not None and any(
        (path.values > _minimum_value(surface)).any() for path in paths
    )
    name = "f" if surface.minimum is None else "f - min f"
    descent.set(title="descent", xlabel="step", ylabel=name, yscale="log" if above else "linear")
    descent.set_ylim(*_axis_bounds(paths, surface))
    descent.grid(alpha=0.3)
    handles, labels = contour.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=_legend_columns(labels), fontsize="small"
    )
    return figure


def draw_path_sheet(paths: Sequence[Path], surface: Surface) -> Figure:
    """A contour for each path: 300 pixels wide, in rows of four, 250 high."""
    figure, panels = _make_panels(len(paths), height=2.5)
    for axes, path in zip(panels, paths, strict=True):
        _draw_surface(axes, surface, levels=10)
        _draw_path(axes, path, PALETTE[1])
        axes.set_title(textwrap.fill(_path_label(path), 34), fontsize="small")
    figure.suptitle(f"{surface.name}: {surface.formula}, {max(len(path.points) for path in paths) - 1} steps")
    return figure


def _draw_path(axes: Axes, path: Path, color: Color, label: str = "") -> None:
    """A path, a ring where it begins and a dot where it ends."""
    axes.plot(*path.points.T, color=color, linewidth=1.5, label=label)
    axes.plot(*path.points[0], "o", color="k", markerfacecolor="none", markersize=7)
    axes.plot(*path.points[-1], "o", color=color, markersize=5)


def _path_label(path: Path) -> str:
    return f"{path.label}: diverged" if path.diverged else path.label


def _make_panels(count: int, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with ``count`` panels in rows of four."""
    columns = min(count, COLUMNS)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(3 * columns, height * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in panels[count:]:
        unused.remove()
    return figure, panels[:count]


def _draw_surface(axes: Axes, surface: Surface, levels: int = 18) -> None:
    """Contours of a surface, closer where it is low, and its minimum."""
    x, y, z = _sample_surface(surface)
    if surface.minimum is None:
        at = np.linspace(z.min(), z.max(), levels)
    else:
        at = _minimum_value(surface) + (z.max() - _minimum_value(surface)) * np.geomspace(1e-4, 0.8, levels)
        axes.plot(*surface.minimum, "k*", markersize=9)
    axes.contour(x, y, z, levels=at, cmap="Greys_r", linewidths=0.7, alpha=0.6)
    axes.set(xlim=(x.min(), x.max()), ylim=(y.min(), y.max()))


def _sample_surface(surface: Surface) -> tuple[Floats, Floats, Floats]:
    """Coordinates in the window, and the surface there, [200, 200] each."""
    left, right, bottom, top = surface.window
    x, y = np.meshgrid(np.linspace(left, right, 200), np.linspace(bottom, top, 200))
    return x, y, surface.value(x, y)


def _minimum_value(surface: Surface) -> float:
    """The value at the minimum, or 0 if the surface has none."""
    if surface.minimum is None:
        return 0.0
    return float(surface.values_at(np.array([surface.minimum]))[0])


def _axis_bounds(paths: Sequence[Path], surface: Surface) -> tuple[float, float]:
    """Bounds of the descent's axis, which neither a divergence nor an arrival stretches."""
    values = np.concatenate([path.values for path in paths]) - _minimum_value(surface)
    first = float(paths[0].values[0]) - _minimum_value(surface)
    if surface.minimum is None:
        z = _sample_surface(surface)[2]
        margin = 0.05 * float(np.ptp(z))
        return max(float(values.min()), float(z.min())) - margin, first + margin
    low = float(np.min(values[values > 0], initial=first))
    return max(low, LEAST_DESCENT) / 2, 3 * max(first, 1e-11)


def _choose_colors(count: int) -> list[Color]:
    """As many colors as there are paths: those of Okabe and Ito, of tab20 when they are not enough."""
    if count <= len(PALETTE):
        return list(PALETTE[:count])
    palette = colormaps["tab20"]
    return [palette(i % palette.N) for i in range(count)]


def _legend_columns(labels: Sequence[str]) -> int:
    """As many columns as fit the figure's width."""
    longest = max(len(line) for label in labels for line in label.splitlines())
    return max(1, min(len(labels), 160 // (longest + 8)))
