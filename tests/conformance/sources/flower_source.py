"""Flower's strategies for the federated rules, in float64.

They run in an environment of their own, which `make conformance-sources` makes, in a process
for each case (`flower_run.py`): two clients of equally many examples, one of which stays where
it was while the other goes twice the pseudo-gradient's way, so that their mean goes once.

Not all that the rules offer are options of the strategies: FedAdagrad's beta1 is set on the
strategy, and so is the v that a run starts from. FedAdam corrects its rate, which the paper does
not; the case without that divides the rate by the same factor first.

The strategies are those of flwr.server.strategy. Those of flwr.serverapp.strategy compute the
same, with a tau of 1e-3 by default.

FedAvgM is gradient descent with momentum, so that PyTorch proves it as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch

from tests.conformance import inputs
from tests.conformance.oracle import later_optimizers as oracle
from tests.conformance.oracle.optimizers import momentum
from tests.conformance.sources import torch_source
from tests.conformance.sources.flower_process import ask
from tests.conformance.sources.row import Path as Steps
from tests.conformance.sources.row import Row, Runner, optimizer_spec, trajectory, underscore

NOTE = "gradients stand for the parameters minus the clients' mean"
AHEAD = {"bias_correction": "FED_ADAM_CORRECTION_FOLDED_AHEAD"}
BETAS = {"beta1": 0.8, "beta2": 0.95}
TAU = {"tau": 0.0625}
FULL = {"initial_accumulator": 0.25, **TAU}


@cache
def version() -> str:
    """Flower's version."""
    return str(ask({}))


def run(
    strategy: str, initial: float | None = None, attributes: Mapping[str, float] | None = None,
    factor: Callable[[int], float] = lambda step: 1.0, **options: float,
) -> Runner:  # fmt: skip
    """Runs a strategy, the rate of each round times ``factor`` of its number."""

    def runner(gradients: Steps, rates: Sequence[float] | None) -> Steps:
        scaled = rates and [rate * factor(number) for number, rate in enumerate(rates, 1)]
        answer: Steps = ask({
            "strategy": strategy, "options": underscore(options),
            "attributes": underscore(attributes or {}), "initial": initial,
            "parameters": inputs.PARAMETERS, "gradients": gradients, "rates": scaled,
        })  # fmt: skip
        return answer

    return runner


def undo_correction(step: int) -> float:
    """What FedAdam multiplies a rate by, upside down."""
    return (1 - 0.8 ** (step + 1)) / math.sqrt(1 - 0.95 ** (step + 1))


def case(
    file: str, name: str, runner: Runner | None, scalar: Callable[..., list[float]],
    fields: Mapping[str, Any], note: str = "", **knobs: Any,
) -> Row:  # fmt: skip
    source = "flower" if runner else "paper"
    note = f"{NOTE}; {note}" if note else NOTE
    spec = optimizer_spec("KERAS", file, **fields)
    return trajectory(file, name, source, spec, runner, scalar, note=note, **knobs)


def rows_of_average() -> list[Row]:
    heavy_ball = {"form": "HEAVY_BALL", "dampening": 0.0}
    on_torch = torch_source.run(torch.optim.SGD, momentum=0.8)
    return [
        torch_source.case("fed_avg_m", "torch", on_torch, momentum, {"momentum": 0.8}, mu=0.8, note=NOTE,
                          **heavy_ball),
        case("fed_avg_m", "flower", run("FedAvgM", server_momentum=0.8), momentum, {"momentum": 0.8},
             mu=0.8, **heavy_ball),
        case("fed_avg_m", "flower_own_momentum",
             run("FedAvgM", server_momentum=0.9, server_learning_rate=0.015), momentum,
             {"learning_rate": 0.015}, own_rate=0.015, mu=0.9,
             note="Flower has no momentum unless told so", **heavy_ball),
    ]  # fmt: skip


def adagrads() -> list[Row]:
    set_on_it = "beta1 and v_t are set on the strategy"
    return [
        case("fed_adagrad", "flower", run("FedAdagrad", **TAU), oracle.fed_adagrad, TAU, beta1=0.0,
             initial=0.0, **TAU),
        case("fed_adagrad", "flower_accumulator", run("FedAdagrad", 0.25, {"beta1": 0.5}, **TAU),
             oracle.fed_adagrad, {"beta1": 0.5, **FULL}, beta1=0.5, initial=0.25, note=set_on_it, **TAU),
        case("fed_adagrad", "flower_defaults", run("FedAdagrad"), oracle.fed_adagrad, {}, own_rate=0.1,
             beta1=0.0, tau=1e-9, initial=0.0),
    ]  # fmt: skip


def adams() -> list[Row]:
    usual = {"beta1": 0.9, "beta2": 0.99, "tau": 1e-9, "initial": 0.0, "own_rate": 0.1}
    knobs = BETAS | TAU
    return [
        case("fed_adam", "flower", run("FedAdam", **knobs), oracle.fed_adam, knobs | AHEAD, initial=0.0,
             ahead=True, **knobs),
        case("fed_adam", "flower_accumulator", run("FedAdam", 0.25, **knobs), oracle.fed_adam,
             BETAS | FULL | AHEAD, initial=0.25, ahead=True, note="v_t is set on the strategy", **knobs),
        case("fed_adam", "flower_uncorrected", run("FedAdam", 0.25, factor=undo_correction, **knobs),
             oracle.fed_adam, BETAS | FULL, initial=0.25,
             note="v_t is set on the strategy, and eta divided by the factor that it multiplies it by",
             **knobs),
        case("fed_adam", "flower_defaults", run("FedAdam"), oracle.fed_adam, AHEAD, ahead=True, **usual),
        case("fed_adam", "paper_defaults", None, oracle.fed_adam, {}, **usual),
    ]  # fmt: skip


def yogis() -> list[Row]:
    knobs = BETAS | TAU
    return [
        case("fed_yogi", "flower", run("FedYogi", **knobs), oracle.fed_adam, knobs, initial=0.0, yogi=True,
             **knobs),
        case("fed_yogi", "flower_accumulator", run("FedYogi", 0.25, **knobs), oracle.fed_adam, BETAS | FULL,
             initial=0.25, yogi=True, note="v_t is set on the strategy", **knobs),
        case("fed_yogi", "flower_defaults", run("FedYogi"), oracle.fed_adam, {}, own_rate=0.01, yogi=True,
             beta1=0.9, beta2=0.99, tau=1e-3, initial=0.0),
    ]  # fmt: skip


def rows() -> list[Row]:
    """Every case."""
    return [*rows_of_average(), *adagrads(), *adams(), *yogis()]
