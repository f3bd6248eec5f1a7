"""Activations that Keras, PyTorch and JAX share, each from all of those that have it.

Keras and JAX have no PReLU over channels, no RReLU and no maxout; PyTorch's maximum along an
axis, which hands its gradient to one element, stands for the last.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
import torch
import torch.nn.functional as F
from optax import projections

from tests.conformance.corpus import FRAMEWORK_FLOAT32
from tests.conformance.inputs import make_nested
from tests.conformance.oracle import activations as oracle
from tests.conformance.sources.row import Row

CONVENTIONS = {"keras": "KERAS", "torch": "TORCH", "optax": "OPTAX"}
FAR = [[-(2.0**100), -4096.0, -128.0], [128.0, 2048.0, 4096.0]]
"""Where exponentials overflow or vanish, in float32 or in both."""

Oracle = Callable[[Any, Any], dict[str, Any]]


def jax_vjp(function: Callable[..., Any], *arrays: Any) -> tuple[Any, ...]:
    """The output, and the gradient of each array for the output gradient, which comes last."""
    *inputs, output_gradient = (jnp.array(array) for array in arrays)
    output, pull_back = jax.vjp(function, *inputs)
    return tuple(np.asarray(array).tolist() for array in (output, *pull_back(output_gradient)))


def torch_vjp(function: Callable[..., Any], *arrays: Any) -> tuple[Any, ...]:
    """As `jax_vjp`."""
    inputs = [torch.tensor(array, requires_grad=True) for array in arrays[:-1]]
    output = function(*inputs)
    output.backward(torch.tensor(arrays[-1]))
    return (output.tolist(), *(array.grad.tolist() for array in inputs))


def row(
    file: str, case: str, source: str, fields: Mapping[str, Any], function: Callable[..., Any],
    scalar: oracle.Scalar | Oracle, *, x: Any = None, output_gradient: Any = None, slope: Any = None,
) -> Row:  # fmt: skip
    """A case with the usual inputs, or others. An oracle is for elements, or for whole arrays."""
    x = make_nested((3, 6), seed=3, scale=4.0) if x is None else x
    output_gradient = make_nested(np.shape(x), seed=11) if output_gradient is None else output_gradient
    given = {"input": x, "output_gradient": output_gradient, **({} if slope is None else {"slope": slope})}

    def run() -> dict[str, Any]:
        vjp = torch_vjp if source == "torch" else jax_vjp
        arrays = (x, output_gradient) if slope is None else (x, slope, output_gradient)
        parts = ("output", "input_gradient", "slope_gradient")
        return dict(zip(parts, vjp(function, *arrays), strict=False))

    def compute_expected() -> dict[str, Any]:
        if file in WHOLE:
            return scalar(x, output_gradient)  # type: ignore[call-arg, return-value]
        return oracle.evaluate(scalar, x, output_gradient)  # type: ignore[arg-type]

    spec = {"convention": f"CONVENTION_{CONVENTIONS[source]}", file: fields}
    return Row("activations", file, case, source, spec, given, compute_expected, run)


WHOLE = ("prelu", "log_softmax", "maxout", "softmin", "sparsemax", "glu")
"""Activations whose elements depend on more than one number."""


def rows_of_all() -> list[Row]:
    """Those that all three have, by their defaults and far from 0."""
    k, j = keras.activations, jax.nn
    table: list[tuple[str, Any, Any, Any, oracle.Scalar]] = [
        ("elu", k.elu, F.elu, j.elu, oracle.elu(1.0)),
        ("selu", k.selu, F.selu, j.selu, oracle.selu),
        ("celu", k.celu, F.celu, j.celu, oracle.celu(1.0)),
        ("gelu", k.gelu, F.gelu, j.gelu, oracle.gelu),
        ("silu", k.silu, F.silu, j.silu, oracle.silu),
        ("mish", k.mish, F.mish, j.mish, oracle.mish),
        ("softplus", k.softplus, F.softplus, j.softplus, oracle.softplus(1.0)),
        ("softsign", k.softsign, F.softsign, j.soft_sign, oracle.softsign),
        ("hard_sigmoid", k.hard_sigmoid, F.hardsigmoid, j.hard_sigmoid, oracle.hard_sigmoid),
        ("hard_swish", k.hard_silu, F.hardswish, j.hard_swish, oracle.hard_swish),
    ]  # fmt: skip
    rows = []
    for file, in_keras, in_torch, in_jax, scalar in table:
        by_jax = oracle.gelu_tanh if file == "gelu" else scalar
        rows += [
            row(file, "keras_defaults", "keras", {}, in_keras, scalar),
            row(file, "torch_defaults", "torch", {}, in_torch, scalar),
            row(file, "jax_defaults", "optax", {}, in_jax, by_jax),
            row(file, "keras_far", "keras", {}, in_keras, scalar, x=FAR),
        ]
    return [in_float32(r) if (r.file, r.source) == ("hard_sigmoid", "torch") else r for r in rows]


def in_float32(found: Row) -> Row:
    note = "PyTorch keeps the slope 1/6 in float32"
    return dataclasses.replace(found, tolerance=FRAMEWORK_FLOAT32, note=note)


SMALL = [[-2.75, -1.25, -0.375, -0.25, 0.0, 0.125], [0.375, 0.625, 1.75, 2.5, 5.5, 8.25]]
"""On both sides of every threshold, and on none."""


def further() -> list[Row]:
    """Rectifiers, shrinkage and what is smooth beside them, each from all that have it."""
    k, j, a = keras.activations, jax.nn, oracle
    table: list[tuple[str, Any, Any, Any, oracle.Scalar]] = [
        ("relu6", k.relu6, F.relu6, j.relu6, a.rectifier(6.0)),
        ("hard_tanh", k.hard_tanh, F.hardtanh, j.hard_tanh, a.hard_tanh()),
        ("hard_shrink", k.hard_shrink, F.hardshrink, None, a.hard_shrink()),
        ("soft_shrink", k.soft_shrink, F.softshrink, None, a.soft_shrink()),
        ("tanh_shrink", None, F.tanhshrink, None, a.tanh_shrink),
        ("log_sigmoid", k.log_sigmoid, F.logsigmoid, j.log_sigmoid, a.log_sigmoid),
        ("sparse_sigmoid", k.sparse_sigmoid, None, j.sparse_sigmoid, a.sparse_sigmoid),
        ("sparse_plus", k.sparse_plus, None, j.sparse_plus, a.sparse_plus),
        ("squareplus", k.squareplus, None, j.squareplus, a.squareplus()),
        ("exponential", k.exponential, None, None, a.exponential),
        ("linear", k.linear, torch.nn.Identity(), j.identity, a.linear),
    ]  # fmt: skip
    rows = []
    for file, in_keras, in_torch, in_jax, scalar in table:
        for case, source, function in (
            ("keras", "keras", in_keras), ("torch", "torch", in_torch), ("jax", "optax", in_jax)
        ):  # fmt: skip
            if function is None:
                continue
            # On both sides of where JAX takes half of the slope, but not there.
            x = SMALL if file in ("hard_shrink", "soft_shrink", "hard_tanh", "sparse_sigmoid") else None
            rows.append(row(file, f"{case}_defaults", source, {}, function, scalar, x=x))
            if file not in ("exponential", "squareplus"):
                rows.append(row(file, f"{case}_far", source, {}, function, scalar, x=FAR))
            if x is not SMALL and file not in ("relu6", "sparse_plus"):
                rows.append(row(file, f"{case}_small", source, {}, function, scalar, x=SMALL))
    return [*rows, *further_knobs(), *halves_and_simplices()]


def further_knobs() -> list[Row]:
    k, a = keras.activations, oracle
    rows = [
        row("hard_tanh", "torch_limits", "torch", {"min_value": -0.5, "max_value": 2.0},
            lambda x: F.hardtanh(x, -0.5, 2.0), a.hard_tanh(-0.5, 2.0)),
        row("threshold", "torch", "torch", {"threshold": 0.25, "value": 20.0},
            lambda x: F.threshold(x, 0.25, 20.0), a.threshold(0.25, 20.0)),
        row("threshold", "keras", "keras", {"threshold": -0.5, "value": -2.0},
            lambda x: k.threshold(x, -0.5, -2.0), a.threshold(-0.5, -2.0)),
        row("squareplus", "keras_b", "keras", {"b": 0.25}, lambda x: k.squareplus(x, b=0.25),
            a.squareplus(0.25)),
    ]  # fmt: skip
    for limit in (0.0625, 1.5):
        for file, in_keras, in_torch, make in (
            ("hard_shrink", k.hard_shrink, F.hardshrink, a.hard_shrink),
            ("soft_shrink", k.soft_shrink, F.softshrink, a.soft_shrink),
        ):
            fields, name = {"threshold": limit}, f"threshold_{limit:g}".replace(".", "_")
            rows.append(row(file, f"keras_{name}", "keras", fields, partial(in_keras, threshold=limit),
                            make(limit), x=SMALL))  # fmt: skip
            rows.append(row(file, f"torch_{name}", "torch", fields, partial(in_torch, lambd=limit),
                            make(limit), x=SMALL))  # fmt: skip
    for knobs in (
        {"max_value": 2.0},
        {"max_value": 6.0},
        {"negative_slope": 0.25},
        {"threshold": 0.25},
        {"max_value": 2.0, "negative_slope": 0.25, "threshold": 0.5},
        {"negative_slope": 0.25, "threshold": -0.5},
        {"max_value": 1.875, "threshold": -0.5},
    ):
        scalar = a.rectifier(
            knobs.get("max_value", math.inf), knobs.get("negative_slope", 0.0), knobs.get("threshold", 0.0)
        )
        case = "_".join(["keras", *knobs, *("low" for v in knobs.values() if v < 0)])
        case += "_six" if knobs.get("max_value") == 6 else ""
        # JAX takes the other slope of the leaky rectifier at 0, and half of it where it clips.
        x = None if knobs == {"negative_slope": 0.25} or knobs.get("max_value") == 1.875 else SMALL
        rows.append(row("relu", case, "keras", knobs, partial(k.relu, **knobs), scalar, x=x))
    return rows


def halves_and_simplices() -> list[Row]:
    k, j = keras.activations, jax.nn
    first, one = {"axis": 0}, {"axis": 1}
    block = make_nested((2, 4, 3), seed=3, scale=4.0)
    near = make_nested((3, 6), seed=3, scale=0.75)

    def by(function: Any, axis: int) -> Oracle:
        return lambda x, g: function(x, g, axis=axis)

    def gate_case(
        name: str, source: str, fields: Any, function: Any, axis: int, shape: tuple[int, ...]
    ) -> Row:
        half = list(shape)
        half[axis] //= 2
        return row("glu", name, source, fields, function, by(oracle.glu, axis),
                   x=make_nested(shape, seed=3, scale=4.0),
                   output_gradient=make_nested(tuple(half), seed=11))  # fmt: skip

    def project(x: Any) -> Any:
        """Keras' own adds up the sums of all that are above 0: it is right where that is one class."""
        return jnp.stack([projections.projection_simplex(line) for line in x])

    def softmin(axis: int) -> Any:
        return torch.nn.Softmin(dim=axis)

    return [
        gate_case("keras_defaults", "keras", {}, k.glu, -1, (3, 6)),
        gate_case("torch_defaults", "torch", {}, F.glu, -1, (3, 6)),
        gate_case("jax_defaults", "optax", {}, j.glu, -1, (3, 6)),
        gate_case("torch_middle_axis", "torch", one, lambda x: F.glu(x, 1), 1, (2, 4, 3)),
        row("softmin", "torch_last_axis", "torch", {"axis": -1}, softmin(-1), by(oracle.softmin, -1)),
        row("softmin", "torch_axis", "torch", one, softmin(1), by(oracle.softmin, 1), x=block),
        row("sparsemax", "jax_defaults", "optax", {}, project, by(oracle.sparsemax, -1)),
        row("sparsemax", "jax_near", "optax", {}, project, by(oracle.sparsemax, -1), x=near),
        row("sparsemax", "jax_first_axis", "optax", first, lambda x: project(x.T).T, by(oracle.sparsemax, 0),
            x=near),
        row("sparsemax", "keras_one_class", "keras", {}, k.sparsemax, by(oracle.sparsemax, -1), x=FAR),
    ]  # fmt: skip


def knobs() -> list[Row]:
    """Hyperparameters other than the defaults."""
    k, j = keras.activations, jax.nn
    alpha, half = {"alpha": 0.625}, {"alpha": 0.5}
    tanh, erf = {"approximate": True}, {"approximate": False}
    return [
        row("elu", "keras_alpha", "keras", alpha, lambda x: k.elu(x, alpha=0.625), oracle.elu(0.625)),
        row("elu", "torch_alpha", "torch", alpha, lambda x: F.elu(x, 0.625), oracle.elu(0.625)),
        row("celu", "keras_alpha", "keras", half, lambda x: k.celu(x, alpha=0.5), oracle.celu(0.5)),
        row("celu", "torch_alpha", "torch", half, lambda x: F.celu(x, 0.5), oracle.celu(0.5)),
        row("gelu", "keras_tanh", "keras", tanh, lambda x: k.gelu(x, approximate=True), oracle.gelu_tanh),
        row("gelu", "torch_tanh", "torch", tanh, lambda x: F.gelu(x, approximate="tanh"), oracle.gelu_tanh),
        row("gelu", "jax_exact", "optax", erf, lambda x: j.gelu(x, approximate=False), oracle.gelu),
        row("gelu", "keras_tanh_far", "keras", tanh, lambda x: k.gelu(x, approximate=True), oracle.gelu_tanh,
            x=FAR),
        row("softplus", "torch_beta", "torch", {"beta": 2.0}, lambda x: F.softplus(x, beta=2.0),
            oracle.softplus(2.0)),
    ]  # fmt: skip


def rrelu() -> list[Row]:
    """Not training; and training with one slope to draw from, so that the draw does not matter."""
    one = {"lower": 0.25, "upper": 0.25, "training": True, "seed": 7}
    ends = {"lower": 0.0625, "upper": 0.5}
    return [
        row("rrelu", "torch_defaults", "torch", {}, F.rrelu, oracle.rrelu(1 / 8, 1 / 3)),
        row("rrelu", "torch_ends", "torch", ends, lambda x: F.rrelu(x, 0.0625, 0.5),
            oracle.rrelu(0.0625, 0.5)),
        row("rrelu", "torch_training", "torch", one, lambda x: F.rrelu(x, 0.25, 0.25, training=True),
            oracle.rrelu(0.25, 0.25)),
        row("rrelu", "torch_far", "torch", {}, F.rrelu, oracle.rrelu(1 / 8, 1 / 3), x=FAR),
    ]  # fmt: skip


def log_softmax() -> list[Row]:
    def by(axis: int) -> Oracle:
        return lambda x, g: oracle.log_softmax(x, g, axis=axis)

    k, j = keras.activations.log_softmax, jax.nn.log_softmax
    first, one = {"axis": 0}, {"axis": 1}
    far = [[128.0, -128.0, 0.0], [1024.0, 1023.0, -4096.0]]
    return [
        row("log_softmax", "keras_defaults", "keras", {}, k, by(-1)),
        row("log_softmax", "keras_first_axis", "keras", first, lambda x: k(x, axis=0), by(0)),
        row("log_softmax", "keras_far", "keras", {}, k, by(-1), x=far),
        row("log_softmax", "torch_axis", "torch", one, lambda x: F.log_softmax(x, 1), by(1)),
        row("log_softmax", "jax_defaults", "optax", {}, j, by(-1)),
    ]


def maxout() -> list[Row]:
    def case(name: str, shape: tuple[int, ...], group_size: int, axis: int, fields: dict[str, Any]) -> Row:
        def function(x: Any) -> Any:
            return x.unflatten(axis, (x.shape[axis] // group_size, group_size)).max(behind).values

        behind = axis % len(shape) + 1
        shorter = list(shape)
        shorter[axis] //= group_size
        return row("maxout", name, "torch", {"group_size": group_size, **fields}, function,
                   lambda x, g: oracle.maxout(x, g, group_size=group_size, axis=axis),
                   x=make_nested(shape, seed=3, scale=4.0),
                   output_gradient=make_nested(tuple(shorter), seed=11),
                   )  # fmt: skip

    return [
        case("torch", (3, 6), 3, -1, {}),
        case("torch_middle_axis", (2, 4, 3), 2, 1, {"axis": 1}),
        case("torch_groups_of_one", (2, 3), 1, -1, {}),
    ]


def prelu() -> list[Row]:
    layer = keras.layers.PReLU(dtype="float64")
    layer.build((None, 6))

    def in_keras(x: Any, slope: Any) -> Any:
        return layer.stateless_call([slope], [], x)[0]

    def by_channel(x: Any, slope: Any) -> Any:
        return F.prelu(x, slope.reshape(-1))

    six = [0.25, -0.5, 0.0, 1.5, 0.125, 0.75]
    image = make_nested((2, 3, 4), seed=5, scale=4.0)
    return [
        parametric("keras", "keras", in_keras, make_nested((3, 6), seed=3, scale=4.0), six),
        parametric("torch", "torch", F.prelu, make_nested((3, 6), seed=3, scale=4.0), six),
        parametric("torch_channels", "torch", by_channel, image, [[0.25], [-0.5], [0.0]]),
        parametric("torch_one_slope", "torch", by_channel, image, 0.375),
    ]


def parametric(name: str, source: str, function: Callable[..., Any], x: Any, slope: Any) -> Row:
    shape = np.shape(x)
    numbered = np.arange(math.prod(np.shape(slope))).reshape(np.shape(slope))
    padded = numbered.reshape((1,) * (len(shape) - numbered.ndim) + numbered.shape)
    places = [
        int(padded[tuple(i % n for i, n in zip(index, padded.shape, strict=True))])
        for index in itertools.product(*map(range, shape))
    ]
    return row("prelu", name, source, {}, function, lambda x, g: oracle.prelu(x, g, slope, places), x=x,
               slope=slope)  # fmt: skip


def rows() -> list[Row]:
    """Every case of an activation that came after the lecture's own."""
    assert jax.config.jax_enable_x64, "set JAX_ENABLE_X64=1 before anything imports JAX"
    keras.config.set_floatx("float64")
    torch.set_default_dtype(torch.float64)
    return [*rows_of_all(), *knobs(), *prelu(), *rrelu(), *log_softmax(), *maxout(), *further()]
