"""Rows of the file ``gradient/sparse``: gradients of some rows of a tensor.

LAZY is what PyTorch does with sparse gradients: its SparseAdam, Adagrad and plain SGD move the
rows alone that a gradient holds. DENSE is what the others do, and PyTorch's SGD with momentum,
which moves every row that it has ever seen: Keras on JAX and optax get the gradient of a lookup
in the table, which JAX fills up with zeros and adds up where a row was looked up twice.

torch's `clip_grad_norm_` and its decay do not take sparse gradients. Where a case has them, the
rows that a step gives are parameters of their own for that step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import torch

from tests.conformance.inputs import EPSILON, make_nested
from tests.conformance.oracle import gradient, optimizers
from tests.conformance.oracle import rows as oracle
from tests.conformance.oracle.lines import flatten, nest, shape_of
from tests.conformance.sources import guards, keras_source, optax_source
from tests.conformance.sources.guards import Nested
from tests.conformance.sources.row import Row, optimizer_spec, underscore

PARAMETERS: Nested = {
    "bias": [1.5, -2.0, 1.25],
    "table": [[-1.25, 0.875], [2.0, 1.75], [-0.75, -1.5], [1.0, -1.75], [-2.0, 1.125], [0.875, 1.375]],
}
SHAPES = {name: shape_of(value) for name, value in PARAMETERS.items()}
INDICES = [[2, 0, 2], [4], [], [1, 1, 0, 1], [0, 2, 4], [3, 2], [4, 4], [1], [2, 0, 3, 2, 0]]
"""Of the table, call by call. One row is repeated four calls after its first, one is in no
call, and one call has none."""

OF_BIAS = [[0, 2, 0], [1], [], [2], [1, 1], [0], [2], [0, 1, 2], [2]]
"""The same of the other tensor, where it is sparse as well."""

KNOBS = {"beta1": 0.8, "beta2": 0.95, "epsilon": EPSILON}
LAZY, DENSE = {"gradient": {"sparse": "SPARSE_UPDATE_LAZY"}}, {"gradient": {"sparse": "SPARSE_UPDATE_DENSE"}}
FOLDED = {"bias_correction": "BIAS_CORRECTION_FOLDED"}


class Steps:
    """The gradients of all calls.

    Args:
        both: whether the rows of both tensors are given, or ``bias`` whole.
        rates: the rate of each call.
    """

    def __init__(self, both: bool = False, rates: Sequence[float] = guards.RATES) -> None:
        self.rates = list(rates)
        calls = range(len(INDICES))
        self.sparse: list[dict[str, Any]] = [
            {"table": some(INDICES[call], (2,), 31 * call + 2)} for call in calls
        ]
        self.whole: list[Nested] = [{"bias": make_nested((3,), seed=17 * call + 1)} for call in calls]
        if both:
            self.whole = [{} for _ in calls]
            for call in calls:
                self.sparse[call]["bias"] = some(OF_BIAS[call], (), 17 * call + 1)

    def inputs(self) -> dict[str, Any]:
        """As the corpus has them."""
        return {"parameters": PARAMETERS, "gradients": self.whole, "sparse_gradients": self.sparse}

    def rows(self) -> list[dict[str, oracle.Given]]:
        """For the oracle: a whole tensor has all of its rows."""
        return [
            {
                **{name: dict(enumerate(table(value))) for name, value in whole.items()},
                **{n: oracle.sum_rows(r["indices"], table(r["values"])) for n, r in sparse.items()},
            }
            for whole, sparse in zip(self.whole, self.sparse, strict=True)
        ]

    def fill(self) -> list[gradient.Tensors]:
        """For the oracle: 0 in every row that was not given."""
        return [{n: oracle.whole(call[n], SHAPES[n]) for n in PARAMETERS} for call in self.rows()]

    def look_up(self) -> list[Nested]:
        """The gradients that JAX gives of lookups in the tensors that are sparse."""
        return [
            {**whole, **{name: lookup_gradient(name, given) for name, given in sparse.items()}}
            for whole, sparse in zip(self.whole, self.sparse, strict=True)
        ]


def some(indices: list[int], shape: tuple[int, ...], seed: int) -> dict[str, Any]:
    """Rows as the corpus has them."""
    values = make_nested((len(indices), *shape), seed) if indices else []
    return {"indices": indices, "values": values}


def table(nested: list[Any]) -> oracle.Table:
    """A tensor's rows, each flat."""
    return [flatten(row) for row in nested]


def lookup_gradient(name: str, given: Mapping[str, Any]) -> Any:
    """What JAX sends back through a lookup."""
    tensor, indices = jnp.array(PARAMETERS[name], "float64"), jnp.array(given["indices"], "int32")
    found, pull_back = jax.vjp(lambda whole: jnp.take(whole, indices, axis=0), tensor)
    return np.asarray(pull_back(jnp.array(given["values"], "float64").reshape(found.shape))[0]).tolist()


Runner = Callable[[Steps], list[Nested]]
"""To the parameters after each call."""


def lazily(rule: oracle.Rule, first: Sequence[float] = (), **guard: float) -> Runner:
    """The oracle where the given rows alone move."""

    def runner(steps: Steps) -> list[Nested]:
        tables = {name: table(value) for name, value in PARAMETERS.items()}
        path = oracle.lazy(tables, steps.rows(), steps.rates, rule, first, **guard)
        return [{n: nest(flatten(t), SHAPES[n]) for n, t in tables.items()} for tables in path]

    return runner


def densely(scalar: Callable[..., list[float]], **knobs: Any) -> Runner:
    """The oracle where every row moves, element by element."""

    def runner(steps: Steps) -> list[Nested]:
        filled = steps.fill()
        columns = {
            name: [
                scalar(p, [(g[name][i], lr) for g, lr in zip(filled, steps.rates, strict=True)], **knobs)
                for i, p in enumerate(flatten(value))
            ]
            for name, value in PARAMETERS.items()
        }
        return [
            {name: nest([path[t] for path in paths], SHAPES[name]) for name, paths in columns.items()}
            for t in range(len(filled))
        ]

    return runner


def on_torch(make: Callable[..., Any], **options: Any) -> Runner:
    """Steps an optimizer of PyTorch on sparse tensors, duplicates and all."""

    def runner(steps: Steps) -> list[Nested]:
        tensors = {n: torch.tensor(v, dtype=torch.float64, requires_grad=True) for n, v in PARAMETERS.items()}
        optimizer = make(list(tensors.values()), **options)
        path = []
        for whole, sparse, rate in zip(steps.whole, steps.sparse, steps.rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate
            for name, tensor in tensors.items():
                given = sparse_tensor(name, sparse[name]) if name in sparse else None
                tensor.grad = torch.tensor(whole[name], dtype=torch.float64) if given is None else given
            with torch.sparse.check_sparse_tensor_invariants():
                optimizer.step()
            path.append({name: tensor.detach().tolist() for name, tensor in tensors.items()})
        return path

    return runner


def sparse_tensor(name: str, given: Mapping[str, Any]) -> Any:
    shape = SHAPES[name]
    values = torch.tensor(given["values"], dtype=torch.float64).reshape(-1, *shape[1:])
    indices = torch.tensor(given["indices"], dtype=torch.int64)[None]
    return torch.sparse_coo_tensor(indices, values, shape, check_invariants=True)


def gather(l2: float, largest: float) -> Runner:
    """Decays, clips and steps by PyTorch's SGD the rows of each call as parameters of their own."""

    def runner(steps: Steps) -> list[Nested]:
        tensors = {n: torch.tensor(v, dtype=torch.float64) for n, v in PARAMETERS.items()}
        path = []
        for call, rate in zip(steps.rows(), steps.rates, strict=True):
            parts = []
            for name, rows in call.items():
                taken = tensors[name][list(rows)].clone().requires_grad_()
                (l2 / 2 * taken.square().sum()).backward()
                taken.grad += torch.tensor(list(rows.values()), dtype=torch.float64).reshape(taken.shape)
                parts.append((tensors[name], list(rows), taken))
            torch.nn.utils.clip_grad_norm_([taken for *_, taken in parts], largest)
            torch.optim.SGD([taken for *_, taken in parts], lr=rate).step()
            for tensor, indices, taken in parts:
                tensor[indices] = taken.detach()
            path.append({name: tensor.tolist() for name, tensor in tensors.items()})
        return path

    return runner


def on_dense(run: guards.Runner) -> Runner:
    """Steps a framework that knows dense gradients alone."""

    def runner(steps: Steps) -> list[Nested]:
        settings = gradient.Settings(steps.rates)
        return [after for after, _ in run(guards.Guarded(PARAMETERS, steps.look_up(), settings))]

    return runner


def row(
    name: str, source: str, optimizer: Mapping[str, Any], fields: Mapping[str, Any],
    expected: Runner, framework: Runner, *, both: bool = False, own_rate: float | None = None, note: str = "",
) -> Row:  # fmt: skip
    """A case; its rate is the optimizer's own if that is given, else it changes."""
    steps = Steps(both, guards.RATES if own_rate is None else [own_rate] * len(INDICES))
    schedule = {"schedule": guards.piecewise(steps.rates)} if own_rate is None else {}
    return Row(
        "gradient", "sparse", name, source, {"optimizer": optimizer, **schedule, **fields}, steps.inputs(),
        lambda: {"parameters": expected(steps)}, lambda: {"parameters": framework(steps)}, note=note,
    )  # fmt: skip


def lazy_rows() -> list[Row]:
    """Rows alone move; the TORCH convention asks for that without a word."""
    spec, torch_knobs = optimizer_spec, {"betas": (0.8, 0.95), "eps": EPSILON}
    adam, default = oracle.adam(**KNOBS), oracle.adam(beta1=0.9, beta2=0.999, epsilon=1e-8)
    adagrad = oracle.adagrad(epsilon=EPSILON, initial=0.0, decay=0.25)
    sparse_adam, torch_adagrad = torch.optim.SparseAdam, torch.optim.Adagrad
    clipped = {"gradient": {**LAZY["gradient"], "l2": 0.0625, "clip": {"by_global_norm": {"max_norm": 0.75}}}}
    return [
        row("torch_adam", "torch", spec("TORCH", "adam", **KNOBS, **FOLDED), {},
            lazily(*adam), on_torch(sparse_adam, **torch_knobs), both=True),
        row("torch_adam_defaults", "torch", spec("TORCH", "adam", **FOLDED), {},
            lazily(*default), on_torch(sparse_adam), both=True, own_rate=1e-3),
        row("torch_adam_stated", "torch", spec("KERAS", "adam", **KNOBS), LAZY,
            lazily(*adam), on_torch(sparse_adam, **torch_knobs), both=True,
            note="Keras' own form of Adam is that of SparseAdam"),
        row("torch_adagrad", "torch", spec("TORCH", "adagrad", epsilon=EPSILON, learning_rate_decay=0.25), {},
            lazily(*adagrad), on_torch(torch_adagrad, eps=EPSILON, lr_decay=0.25)),
        row("torch_sgd", "torch", spec("TORCH", "sgd"), {}, lazily(oracle.sgd), on_torch(torch.optim.SGD)),
        row("torch_rows_clipped", "torch", spec("TORCH", "sgd"), clipped,
            lazily(oracle.sgd, l2=0.0625, largest=0.75), gather(l2=0.0625, largest=0.75),
            note="the rows of a call as parameters of their own: L2 and the norm are of these alone"),
    ]  # fmt: skip


def dense_rows() -> list[Row]:
    """The others move as well; all conventions but TORCH ask for that without a word."""
    spec, k = optimizer_spec, keras.optimizers
    adam = {"placement": "OUTSIDE", **KNOBS}
    default = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-7, "placement": "OUTSIDE"}
    momentum = {"form": "HEAVY_BALL", "mu": 0.8, "dampening": 0.0}
    keras_adam = on_dense(keras_source.run_guarded(lambda rate: k.Adam(rate, **underscore(KNOBS))))
    keras_default = on_dense(keras_source.run_guarded(lambda rate: k.Adam()))
    optax_adam = on_dense(optax_source.run_guarded(lambda rate: optax.adam(rate, 0.8, 0.95, EPSILON)))
    return [
        row("torch_momentum", "torch", spec("TORCH", "momentum", momentum=0.8), DENSE,
            densely(optimizers.momentum, **momentum), on_torch(torch.optim.SGD, momentum=0.8)),
        row("keras_adam", "keras", spec("KERAS", "adam", **KNOBS), {},
            densely(optimizers.adam, correction="FOLDED", **adam), keras_adam),
        row("keras_adam_defaults", "keras", spec("KERAS", "adam"), {},
            densely(optimizers.adam, correction="FOLDED", **default), keras_default, own_rate=1e-3),
        row("keras_adam_stated", "keras", spec("TORCH", "adam", **KNOBS, **FOLDED), DENSE,
            densely(optimizers.adam, correction="FOLDED", **adam), keras_adam, both=True),
        row("optax_adam", "optax", spec("OPTAX", "adam", **KNOBS), {},
            densely(optimizers.adam, correction="HATTED", **adam), optax_adam, both=True),
    ]  # fmt: skip


def guard_rows() -> list[Row]:
    """Zeros in the other rows, which are gathered, clipped, decayed and averaged with them."""
    s, decay = gradient.Settings, dict.fromkeys(PARAMETERS, 0.1)
    clip = {"clip": {"by_tensor_norm": {"max_norm": 0.5}}}
    return [
        guard("keras_accumulated", {"gradient": {**DENSE["gradient"], **clip, "accumulation_steps": 3}},
                s(guards.RATES, accumulation=3, clip=gradient.Clip("by_tensor_norm", 0.5, 0.0)),
                clipnorm=0.5, gradient_accumulation_steps=3),
        guard("keras_averaged", {"decoupled_weight_decay": 0.1, "weight_average": {"decay": 0.75}},
                s(guards.RATES, decay=decay, average=0.75),
                weight_decay=0.1, use_ema=True, ema_momentum=0.75),
    ]  # fmt: skip


def guard(name: str, fields: Mapping[str, Any], settings: gradient.Settings, **options: Any) -> Row:
    """A case of Keras' SGD with what Keras has around it."""
    steps, run = Steps(), keras_source.run_guarded(lambda rate: keras.optimizers.SGD(rate, **options))

    def answer(run: guards.Runner, gradients: list[Nested]) -> dict[str, Any]:
        return guards.answer(settings, run(guards.Guarded(PARAMETERS, gradients, settings)))

    spec = {"optimizer": optimizer_spec("KERAS", "sgd"), "schedule": guards.piecewise(steps.rates)}
    return Row(
        "gradient", "sparse", name, "keras", {**spec, **fields}, steps.inputs(),
        lambda: answer(guards.run_oracle, [guards.nest_all(g, SHAPES) for g in steps.fill()]),
        lambda: answer(run, steps.look_up()),
    )  # fmt: skip


def rows() -> list[Row]:
    """Every case of sparse rows."""
    return [*lazy_rows(), *dense_rows(), *guard_rows()]
