"""``optserve plot``: pictures of what a server computes, and of sessions."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from optserve.client import Client
from optserve.commands import command_parser as parsers
from optserve.commands.command_parser import parse_count, parse_number
from optserve.commands.connection import open_client
from optserve.commands.local_server import local_server
from optserve.commands.output import print_record
from optserve.extras import import_extra
from optserve.plotting import activations, losses, optimizer_paths, schedules
from optserve.plotting.plot_items import Item, parse_items
from optserve.plotting.spec_parser import WrongItem
from optserve.plotting.surfaces import SURFACES
from optserve.spec import Choice
from optserve.specs.activations import Activation
from optserve.specs.losses import Loss
from optserve.specs.optimizers import Optimizer
from optserve.specs.schedules import Schedule

Items: TypeAlias = list[Item[Any]] | None
POINTS = 601
"""Inputs at which a function is computed; odd, so that a symmetric range has 0 among them."""

SUFFIXES = (".png", ".svg", ".pdf")

GRAMMAR = """
Fields are those of the contract: numbers, true or false, enum members, lists ([1,2] or 1,2), and
specifications within specifications: 'schedule=cosine(initial_learning_rate=0.1, decay_steps=900)'.
Fields follow the name that they belong to; several names share a picture.
"""


def add_to(commands: parsers.Subparsers) -> None:
    """Adds the command to a parser's subcommands."""
    summary = "draw what a server computes, or a session, as PNG, SVG or PDF"
    kinds = parsers.add_group(commands, "plot", summary)
    parser = _add_kind_parser(kinds, "schedule", "learning rates over steps", Schedule, draw_schedules)
    parser.add_argument("--steps", type=parse_count, default=1000, metavar="N", help="default: 1000")
    parser.add_argument("--log", action="store_true", help="a logarithmic axis for the rate")
    what = "activations with their derivatives; 'all' for every elementwise one"
    parser = _add_kind_parser(kinds, "activation", what, Activation, draw_activations)
    _add_range(parser)
    what = "of those that take one beside their input, as prelu"
    parser.add_argument("--slope", type=parse_number, default=0.25, help=what)
    what = "losses of one prediction, with their derivatives"
    parser = _add_kind_parser(kinds, "loss", what, Loss, draw_losses)
    _add_range(parser)
    parser.add_argument("--target", type=parse_number, default=0.0, metavar="T", help="default: 0")
    _add_optimizer_command(kinds)
    summary = "draw learning rate, gradient norms and metrics of a session over its steps"
    parser = parsers.add_command(kinds, "session", summary, run_session, keys=("session", "file"))
    parsers.add_session_argument(parser)
    _add_output(parser, "session")


def _add_optimizer_command(kinds: parsers.Subparsers) -> None:
    what = "paths of optimizers over a surface; 'all' for every one"
    parser = _add_kind_parser(kinds, "optimizer", what, Optimizer, draw_paths)
    parser.add_argument("--surface", choices=sorted(SURFACES), default="beale", help="default: beale")
    start, rate = "default: the surface's", "for those that state none; default: the surface's"
    parser.add_argument("--start", type=parse_number, nargs=2, metavar=("X", "Y"), help=start)
    parser.add_argument("--steps", type=parse_count, default=300, metavar="N", help="default: 300")
    parser.add_argument("--learning-rate", type=parse_number, metavar="R", help=rate)
    parser.add_argument("--sheet", action="store_true", help="a panel for each; always so for 'all'")


def _add_kind_parser(
    kinds: parsers.Subparsers, name: str, what: str, family: type[Choice], draw: Callable[..., Any]
) -> argparse.ArgumentParser:
    """A subcommand with what all have."""
    notes = f"{GRAMMAR} Names: {', '.join(family.CHOICES)}."
    parser = parsers.add_command(kinds, name, f"draw {what}", run, keys=("file",), notes=notes)
    parser.add_argument("words", nargs="+", metavar="WORD", help="a name, and its fields as FIELD=VALUE")
    _add_output(parser, name)
    parser.add_argument("--serve", action="store_true", help="start a server for this picture alone")
    parser.set_defaults(draw=draw, family=family)
    return parser


def _add_output(parser: argparse.ArgumentParser, name: str) -> None:
    path = Path(f"{name}.png")
    parsers.add_file_argument(parser, "-o", "--output", ends=SUFFIXES, default=path, help=f"default: {path}")


def _add_range(parser: argparse.ArgumentParser) -> None:
    ends = ("FROM", "TO")
    parser.add_argument("--range", type=parse_number, nargs=2, default=(-5.0, 5.0), metavar=ends)


def run(options: argparse.Namespace) -> None:
    """Draws one picture.

    Raises:
        WrongItem: a name, a field or a value is wrong.
        OptserveError: the server rejected a call, or could not be reached.
        ImportError: matplotlib is missing.
        RuntimeError: no server can be started.
        OSError: the picture cannot be written.
    """
    if options.serve and options.server:
        raise WrongItem("--serve and --server exclude each other")
    items = None if options.words == ["all"] else parse_items(options.family, options.words)
    pictures = import_extra("optserve.plotting.pictures", "plot", "matplotlib", "PIL")
    server = local_server() if options.serve else contextlib.nullcontext(None)
    with server as address, open_client(options, address) as client:
        figure = options.draw(client, pictures, items, options)
    pictures.save_figure(figure, options.output)
    print_record(options, {"file": options.output})


def run_session(options: argparse.Namespace) -> None:
    """Draws the history of a session.

    Raises:
        OptserveError: there is no such session, or the server could not be reached.
        ImportError: matplotlib is missing.
        OSError: the picture cannot be written.
    """
    pictures = import_extra("optserve.plotting.pictures", "plot", "matplotlib", "PIL")
    with open_client(options) as client:
        session = client.session(options.session)
        figure = session.plot()
    pictures.save_figure(figure, options.output)
    print_record(options, {"session": session.name, "file": options.output})


def draw_schedules(client: Client, pictures: Any, items: Items, options: argparse.Namespace) -> Any:
    """The figure of learning rates over steps."""
    if items is None:
        raise WrongItem("schedules have required fields; name those to draw")
    curves = schedules.schedule_curves(client, items, options.steps)
    if options.log and not any((curve.rates > 0).any() for curve in curves):
        raise WrongItem("--log needs a learning rate above 0")
    return pictures.draw_schedules(curves, options.log)


def draw_activations(client: Client, pictures: Any, items: Items, options: argparse.Namespace) -> Any:
    """The figure of activations with their derivatives."""
    chosen, inputs = items or activations.list_elementwise(client), _read_range(options)
    return pictures.draw_activations(activations.activation_curves(client, chosen, inputs, options.slope))


def draw_losses(client: Client, pictures: Any, items: Items, options: argparse.Namespace) -> Any:
    """The figure of losses with their derivatives."""
    if items is None:
        raise WrongItem("losses are defined over different ranges; name those to draw")
    curves = losses.loss_curves(client, items, _read_range(options), options.target)
    return pictures.draw_losses(curves, options.target)


def _read_range(options: argparse.Namespace) -> NDArray[np.float64]:
    low, high = options.range
    if low >= high:
        raise WrongItem(f"--range goes from a smaller number to a greater one, not from {low:g} to {high:g}")
    return np.linspace(low, high, POINTS)


def draw_paths(client: Client, pictures: Any, items: Items, options: argparse.Namespace) -> Any:
    """The figure of optimizers' paths over a surface."""
    surface = SURFACES[options.surface]
    start = np.array(options.start or surface.start)
    if not optimizer_paths.is_near_window(start, surface):
        raise WrongItem(f"--start lies far outside the picture, which is {surface.window}")
    rate = surface.learning_rate if options.learning_rate is None else options.learning_rate
    chosen = optimizer_paths.with_learning_rate(items or optimizer_paths.every_optimizer(client), rate)
    taken = optimizer_paths.optimizer_paths(client, chosen, surface, start, options.steps)
    sheet = options.sheet or items is None
    return (pictures.draw_path_sheet if sheet else pictures.draw_paths)(taken, surface)
