"""``optserve plot``: pictures of what a server computes."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from optserve.client import Client, connect
from optserve.commands.server import local_server
from optserve.plotting import activations, optimizer_paths, schedules
from optserve.plotting.plot_items import Item, parse_items
from optserve.plotting.spec_parser import WrongItem
from optserve.plotting.surfaces import SURFACES
from optserve.spec import Choice
from optserve.specs.activations import Activation
from optserve.specs.optimizers import Optimizer
from optserve.specs.schedules import Schedule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ADDRESS = "localhost:50051"
POINTS = 601
"""Inputs at which an activation is computed; odd, so that a symmetric range has 0 among them."""

GRAMMAR = """
Fields are those of the contract: numbers, true or false, enum members, lists ([1,2] or 1,2), and
specifications within specifications: 'schedule=cosine(initial_learning_rate=0.1, decay_steps=900)'.
Fields follow the name that they belong to; several names share a picture.
"""


def add_to(commands: Any) -> None:
    """Adds the command to a parser's subcommands."""
    plot = commands.add_parser("plot", help="draw what a server computes", description="Draws PNG or SVG.")
    kinds = plot.add_subparsers(title="what to draw", required=True, metavar="KIND")
    _add_schedule_command(kinds)
    _add_activation_command(kinds)
    _add_optimizer_command(kinds)


def _add_schedule_command(kinds: Any) -> None:
    parser = _add_kind_parser(kinds, "schedule", "learning rates over steps", Schedule, draw_schedules)
    parser.add_argument("--steps", type=_parse_count, default=1000, metavar="N", help="default: 1000")
    parser.add_argument("--log", action="store_true", help="a logarithmic axis for the rate")


def _add_activation_command(kinds: Any) -> None:
    what = "activations with their derivatives; 'all' for every elementwise one"
    parser = _add_kind_parser(kinds, "activation", what, Activation, draw_activations)
    parser.add_argument("--range", type=_parse_number, nargs=2, default=(-5.0, 5.0), metavar=("FROM", "TO"))
    parser.add_argument(
        "--slope",
        type=_parse_number,
        default=0.25,
        help="of those that take one beside their input, as prelu",
    )


def _add_optimizer_command(kinds: Any) -> None:
    what = "paths of optimizers over a surface; 'all' for every one"
    parser = _add_kind_parser(kinds, "optimizer", what, Optimizer, draw_paths)
    parser.add_argument("--surface", choices=sorted(SURFACES), default="beale", help="default: beale")
    parser.add_argument(
        "--start", type=_parse_number, nargs=2, metavar=("X", "Y"), help="default: the surface's"
    )
    parser.add_argument("--steps", type=_parse_count, default=300, metavar="N", help="default: 300")
    parser.add_argument(
        "--learning-rate",
        type=_parse_number,
        metavar="R",
        help="for those that state none; default: the surface's",
    )
    parser.add_argument("--sheet", action="store_true", help="a panel for each; always so for 'all'")


def _add_kind_parser(
    kinds: Any, name: str, what: str, family: type[Choice], draw: Callable[..., Figure]
) -> argparse.ArgumentParser:
    """A subcommand with what all have."""
    parser: argparse.ArgumentParser = kinds.add_parser(
        name, help=what, description=f"Draws {what}.", epilog=f"{GRAMMAR} Names: {', '.join(family.CHOICES)}."
    )
    parser.add_argument("words", nargs="+", metavar="WORD", help="a name, and its fields as FIELD=VALUE")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path(f"{name}.png"), metavar="FILE", help="ends in .png or .svg"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--server", default=ADDRESS, metavar="HOST:PORT", help=f"default: {ADDRESS}")
    where.add_argument("--serve", action="store_true", help="start a server for this picture alone")
    parser.add_argument(
        "--timeout", type=_parse_seconds, default=60.0, metavar="S", help="of each call; default: 60"
    )
    parser.set_defaults(run=run, draw=draw, family=family)
    return parser


def run(options: argparse.Namespace) -> None:
    """Draws one picture.

    Raises:
        WrongItem: a name, a field or a value is wrong.
        OptserveError: the server refused, or could not be reached.
        RuntimeError: matplotlib is missing, or no server can be started.
        OSError: the picture cannot be written.
    """
    items = None if options.words == ["all"] else parse_items(options.family, options.words)
    pictures = _import_pictures()
    with _open_client(options) as client:
        figure = options.draw(client, pictures, items, options)
    pictures.save_figure(figure, options.output)
    print(options.output)


def draw_schedules(
    client: Client, pictures: Any, items: list[Item[Schedule]] | None, options: argparse.Namespace
) -> Figure:
    """Learning rates over steps."""
    if items is None:
        raise WrongItem("schedules have required fields; name those to draw")
    curves = schedules.schedule_curves(client, items, options.steps)
    if options.log and not any((curve.rates > 0).any() for curve in curves):
        raise WrongItem("--log needs a learning rate above 0")
    figure: Figure = pictures.draw_schedules(curves, options.log)
    return figure


def draw_activations(
    client: Client, pictures: Any, items: list[Item[Activation]] | None, options: argparse.Namespace
) -> Figure:
    """Activations with their derivatives."""
    low, high = options.range
    if low >= high:
        raise WrongItem(f"--range goes from a smaller number to a greater one, not from {low:g} to {high:g}")
    chosen = activations.list_elementwise(client) if items is None else items
    curves = activations.activation_curves(client, chosen, np.linspace(low, high, POINTS), options.slope)
    figure: Figure = pictures.draw_activations(curves)
    return figure


def draw_paths(
    client: Client, pictures: Any, items: list[Item[Optimizer]] | None, options: argparse.Namespace
) -> Figure:
    """Paths of optimizers over a surface."""
    surface = SURFACES[options.surface]
    start = np.array(options.start or surface.start)
    if not optimizer_paths.is_near(start, surface):
        raise WrongItem(f"--start lies far outside the picture, which is {surface.window}")
    rate = surface.learning_rate if options.learning_rate is None else options.learning_rate
    chosen = optimizer_paths.with_learning_rate(
        optimizer_paths.every_optimizer(client) if items is None else items, rate
    )
    taken = optimizer_paths.optimizer_paths(client, chosen, surface, start, options.steps)
    sheet = options.sheet or items is None
    figure: Figure = (pictures.draw_path_sheet if sheet else pictures.draw_paths)(taken, surface)
    return figure


@contextlib.contextmanager
def _open_client(options: argparse.Namespace) -> Iterator[Client]:
    server = local_server() if options.serve else contextlib.nullcontext(options.server)
    with server as address, connect(address, timeout=options.timeout, progress=False) as client:
        yield client


def _import_pictures() -> ModuleType:
    """The module that draws, which needs matplotlib."""
    try:
        return importlib.import_module("optserve.plotting.pictures")
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("matplotlib", "PIL"):
            raise
        raise RuntimeError("drawing needs matplotlib: pip install 'optserve[plot]'") from error


def _parse_count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 1_000_000:
        raise argparse.ArgumentTypeError("a whole number from 1 to 1000000")
    return int(text)


def _parse_seconds(text: str) -> float:
    seconds = _parse_number(text)
    if seconds <= 0:
        raise argparse.ArgumentTypeError(f"a number greater than 0, not {text}")
    return seconds


def _parse_number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"a number, not {text}")
    return number
