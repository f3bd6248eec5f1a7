"""Sparse rows against PyTorch's optimizers for sparse gradients, in float64.

The cases of the corpus are dense, so that every client's driver can run them; this runs a
session beside PyTorch itself instead. SparseAdam, Adagrad and plain SGD move the rows alone
that a sparse gradient holds. SGD with momentum moves every row that it has ever seen, which
is the dense step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from optserve_server.arrays.numpy_blocked import NumpyBackend
from optserve_server.hyper import Chosen, Convention
from optserve_server.optimizers.adagrad import Adagrad
from optserve_server.optimizers.adam import Adam, BiasCorrection
from optserve_server.optimizers.base import Rule
from optserve_server.optimizers.momentum import Momentum
from optserve_server.optimizers.sgd import Sgd
from optserve_server.sessions.result import StepOptions
from optserve_server.sessions.sparse import NamedRows
from optserve_server.sessions.spec import GradientSpec, SessionSpec, SparseUpdate
from optserve_server.sessions.store import ParameterInit, Store

ROWS, WIDTH, STEPS = 7, 3, 9
CLOSE = 1e-12
"""The largest relative difference in float64."""


class Case(NamedTuple):
    """A rule and the optimizer of PyTorch that it has to agree with."""

    name: str
    torch: Callable[..., torch.optim.Optimizer]
    rule: Rule
    sparse: SparseUpdate


def cases() -> list[Case]:
    """The optimizers of PyTorch that take sparse gradients."""

    def resolved(rule: type[Rule], **given: object) -> Rule:
        return rule.resolve(given, Convention.TORCH)

    adam = {"beta_1": 0.8, "beta_2": 0.95, "epsilon": 0.01, "bias_correction": BiasCorrection.FOLDED}
    return [
        Case(
            "SparseAdam",
            lambda p: torch.optim.SparseAdam(p, lr=0.05, betas=(0.8, 0.95), eps=0.01),
            resolved(Adam, learning_rate=0.05, **adam),
            SparseUpdate.LAZY,
        ),
        Case(
            "Adagrad",
            lambda p: torch.optim.Adagrad(p, lr=0.05, eps=0.01),
            resolved(Adagrad, learning_rate=0.05, epsilon=0.01),
            SparseUpdate.LAZY,
        ),
        Case("SGD", lambda p: torch.optim.SGD(p, lr=0.05), Sgd(learning_rate=0.05), SparseUpdate.LAZY),
        Case(
            "SGD with momentum",
            lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
            resolved(Momentum, learning_rate=0.05, momentum=0.9),
            SparseUpdate.DENSE,
        ),
    ]


def gradient(step: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Four rows, one of them twice; some rows of the parameter come in no step."""
    random = np.random.default_rng(step)
    indices = random.choice(ROWS - 2, 3, replace=False)
    return np.append(indices, indices[0]), random.normal(size=(4, WIDTH))


def start() -> np.ndarray[Any, Any]:
    """The first parameter."""
    return np.random.default_rng(0).normal(size=(ROWS, WIDTH))


def of_torch(case: Case) -> np.ndarray[Any, Any]:
    """The parameter after PyTorch's steps."""
    parameter = torch.tensor(start(), requires_grad=True)
    optimizer = case.torch([parameter])
    for step in range(STEPS):
        indices, values = gradient(step)
        parameter.grad = torch.sparse_coo_tensor(indices[None], values, (ROWS, WIDTH), check_invariants=True)
        optimizer.step()
    return np.array(parameter.detach())


def of_session(case: Case) -> np.ndarray[Any, Any]:
    """The parameter after a session's steps."""
    spec = SessionSpec(optimizer=Chosen(case.rule), gradient=GradientSpec(sparse=case.sparse))
    first = start()
    session = Store(NumpyBackend()).create("", spec, [ParameterInit("p", first.dtype, first.shape, first)])
    for step in range(STEPS):
        rows = NamedRows("p", *gradient(step))
        session.apply(session.stage_arrays([], [rows]), StepOptions())
    return session.values().array(0)


def problems() -> list[str]:
    """The cases in which a session and PyTorch part, as sentences."""
    found = []
    for case in cases():
        expected, actual = of_torch(case), of_session(case)
        assert not np.array_equal(expected, start())
        distance = float(np.max(np.abs(actual - expected) / np.abs(expected)))
        if not distance <= CLOSE:
            found.append(f"sparse rows: the session and torch {case.name} differ by {distance:.2g}")
    return found
