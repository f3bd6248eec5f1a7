"""Losses, each from every framework that has it.

Keras on JAX takes means in float32 whatever the input, so that cases of it whose loss is a
mean carry a wider tolerance. Where neither PyTorch nor optax has such a loss, the oracle that
they confirm is recorded as well, for the digits that are missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
import keras
import optax
import torch
import torch.nn.functional as F

from tests.conformance.corpus import EXACT
from tests.conformance.oracle.losses import class_losses as lines
from tests.conformance.oracle.losses import elementwise_losses as oracle
from tests.conformance.oracle.losses.evaluation import Line
from tests.conformance.sources import functions
from tests.conformance.sources.losses import loss_run
from tests.conformance.sources.losses.loss_inputs import KINDS, Given, columns, weigh
from tests.conformance.sources.row import Row

BATCH = "SUM_OVER_BATCH_SIZE"
MEANS = "Keras on JAX takes means in float32"
MEAN_TOLERANCE = {"float64": 2.5e-7, "float32": 1e-6}
"""Two units of float32, in which the mean is taken and divided."""

K = keras.losses
Fields = Mapping[str, Any]


def from_keras(
    file: str, make: Callable[..., Any], line: Line, data: str | Given, fields: Fields | None = None,
    *, reduction: str = BATCH, case: str = "", axis: int | tuple[int, ...] = -1, mean: bool = True,
) -> Row:  # fmt: skip
    """A class of Keras; ``fields`` are its own arguments, and the spec's."""
    fields = fields or {}
    given = KINDS[data] if isinstance(data, str) else data
    name = "keras_" + (case or str(data)) + ("" if reduction == BATCH else f"_{reduction.lower()}")
    return functions.loss(
        file, name, "keras", "KERAS", reduction, fields, given,
        lambda: loss_run.keras(make, given, reduction), line, axis,
        MEAN_TOLERANCE if mean else EXACT, MEANS if mean else "",
    )  # fmt: skip


def from_torch(
    file: str, function: Callable[..., Any], line: Line, data: str, fields: Fields | None = None,
    *, case: str = "", reduction: str = "mean", over: str = "mean",
) -> Row:  # fmt: skip
    """An element-wise function of PyTorch, averaged or summed over the last axis."""
    given = KINDS[data]

    def each(p: Any, y: Any) -> Any:
        found = function(p, y, reduction="none")
        return found.mean(-1) if over == "mean" else found.sum(-1)

    def run() -> Mapping[str, Any]:
        return loss_run.pytorch(each, partial(function, reduction=reduction), given, BATCH)

    return functions.loss(
        file, "torch_" + (case or data), "torch", "TORCH", BATCH, fields or {}, given, run, line
    )


def from_optax(
    file: str, function: Callable[..., Any], line: Line, data: str, fields: Fields | None = None,
    *, case: str = "", note: str = "",
) -> Row:  # fmt: skip
    """A function of optax that gives a value per example."""
    given = KINDS[data]
    return functions.loss(
        file, "optax_" + (case or data), "optax", "OPTAX", BATCH, fields or {}, given,
        lambda: loss_run.optax(function, given, BATCH), line, note=note,
    )  # fmt: skip


def from_oracle(file: str, line: Line, data: str, fields: Fields | None = None) -> Row:
    """All digits of what Keras gives a few of."""
    return functions.loss(
        file, "all_digits_" + data, "lecture", "KERAS", BATCH, fields or {}, KINDS[data], None, line
    )


def average(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """An element-wise function's mean over the last axis."""
    return lambda p, y: jnp.mean(function(p, y, **options), axis=-1)


def distances() -> list[Row]:
    mean = oracle.average
    return [
        from_keras("mean_absolute_error", K.MeanAbsoluteError, mean(oracle.absolute), "real"),
        from_torch("mean_absolute_error", F.l1_loss, mean(oracle.absolute), "real"),
        from_keras("huber", K.Huber, mean(oracle.huber(1.0)), "real"),
        from_keras("huber", partial(K.Huber, delta=0.5), mean(oracle.huber(0.5)), "real", {"delta": 0.5},
                   case="delta"),
        from_torch("huber", F.huber_loss, mean(oracle.huber(1.0)), "real"),
        from_torch("huber", partial(F.huber_loss, delta=0.5), mean(oracle.huber(0.5)), "real", {"delta": 0.5},
                   case="delta"),
        from_optax("huber", average(optax.huber_loss), mean(oracle.huber(1.0)), "real"),
        from_torch("smooth_l1", F.smooth_l1_loss, mean(oracle.smooth_l1(1.0)), "real"),
        from_torch("smooth_l1", partial(F.smooth_l1_loss, beta=0.25), mean(oracle.smooth_l1(0.25)), "real",
                   {"beta": 0.25}, case="beta"),
        from_torch("smooth_l1", partial(F.smooth_l1_loss, beta=0.0), mean(oracle.smooth_l1(0.0)), "real",
                   {"beta": 0.0}, case="without_beta"),
        from_keras("log_cosh", K.LogCosh, mean(oracle.log_cosh), "real"),
        from_optax("log_cosh", average(optax.log_cosh), mean(oracle.log_cosh), "real"),
        from_keras("mean_squared_logarithmic_error", K.MeanSquaredLogarithmicError,
                   mean(oracle.square_logarithms), "positive"),
        from_keras("mean_squared_logarithmic_error", K.MeanSquaredLogarithmicError,
                   mean(oracle.square_logarithms), "real", case="negative"),
    ]  # fmt: skip


def binary() -> list[Row]:
    mean, file = oracle.average, "binary_crossentropy"
    of_logits, of_chances = mean(oracle.binary(True)), mean(oracle.binary(False))
    smooth = {"label_smoothing": 0.25}
    logits = {"from_logits": True}
    # Keras' axis is that of the mean: with the axes exchanged, the first.
    exchanged = columns(KINDS["doubtful"])
    weights = partial(F.binary_cross_entropy_with_logits, pos_weight=torch.tensor(3.0))
    return [
        from_keras(file, K.BinaryCrossentropy, of_chances, "doubtful"),
        from_keras(file, K.BinaryCrossentropy, of_chances, "certain"),
        from_keras(file, partial(K.BinaryCrossentropy, **logits), of_logits, "logits", logits),
        from_keras(file, partial(K.BinaryCrossentropy, **logits), of_logits, "far_logits", logits),
        from_keras(file, partial(K.BinaryCrossentropy, **smooth), mean(oracle.binary(False, 0.25)),
                   "doubtful", smooth, case="smoothed"),
        from_keras(file, partial(K.BinaryCrossentropy, **logits, **smooth), mean(oracle.binary(True, 0.25)),
                   "logits", logits | smooth, case="smoothed_logits"),
        from_keras(file, partial(K.BinaryCrossentropy, axis=0), of_chances, exchanged, {"axis": 0},
                   case="first_axis", axis=0),
        from_torch(file, F.binary_cross_entropy_with_logits, of_logits, "doubtful_logits"),
        from_torch(file, F.binary_cross_entropy_with_logits, of_logits, "far_logits"),
        from_torch(file, F.binary_cross_entropy, of_chances, "doubtful", {"from_logits": False}),
        from_torch(file, weights, mean(oracle.binary(True, positive=3.0)), "doubtful_logits",
                   {"positive_weight": 3.0}, case="positive_weight"),
        from_optax(file, average(optax.sigmoid_binary_cross_entropy), of_logits, "doubtful_logits"),
    ]  # fmt: skip


def focal() -> list[Row]:
    mean, file, keras_loss = oracle.average, "binary_focal_crossentropy", K.BinaryFocalCrossentropy
    rows = []
    for data, options in (
        ("doubtful", {}),
        ("chances", {"gamma": 1.0}),
        ("doubtful", {"gamma": 2.5, "apply_class_balancing": True, "alpha": 0.75}),
        ("doubtful", {"label_smoothing": 0.25}),
        ("chances", {"gamma": 0.0}),
        ("logits", {"from_logits": True}),
        ("doubtful_logits", {"from_logits": True, "gamma": 0.5, "apply_class_balancing": True}),
    ):
        knobs = {"gamma": options.get("gamma", 2.0), "smoothing": options.get("label_smoothing", 0.0)}
        if "apply_class_balancing" in options:
            knobs["alpha"] = options.get("alpha", 0.25)
        scalar = oracle.binary_focal(bool(options.get("from_logits")), **knobs)
        parts = [data, *(name for name in options if name != "from_logits")]
        case = "_".join(parts).replace("gamma", f"gamma_{options.get('gamma', 2.0):g}")
        rows.append(from_keras(file, partial(keras_loss, **options), mean(scalar), data, options, case=case))
    balanced = average(optax.sigmoid_focal_loss, alpha=0.75)
    return [
        *rows,
        from_optax(file, average(optax.sigmoid_focal_loss), mean(oracle.binary_focal(True)), "logits"),
        from_optax(file, balanced, mean(oracle.binary_focal(True, alpha=0.75)), "logits",
                   {"apply_class_balancing": True, "alpha": 0.75}, case="balanced"),
    ]  # fmt: skip


def categorical_focal() -> list[Row]:
    file, make = "categorical_focal_crossentropy", K.CategoricalFocalCrossentropy
    rows = []
    for data, options in (
        ("distributions", {}),
        ("distributions", {"gamma": 1.5, "alpha": 0.5}),
        ("distributions", {"label_smoothing": 0.25}),
        ("certain", {}),
        ("classes", {"from_logits": True}),
        ("soft_classes", {"from_logits": True, "gamma": 1.0, "label_smoothing": 0.25}),
    ):
        knobs = {"gamma": options.get("gamma", 2.0), "alpha": options.get("alpha", 0.25)}
        line = lines.categorical_focal(
            bool(options.get("from_logits")), **knobs, smoothing=options.get("label_smoothing", 0.0)
        )
        case = "_".join([data, *(name for name in options if name != "from_logits")])
        given = dict(KINDS[data], target=KINDS["distributions"]["target"])
        rows.append(from_keras(file, partial(make, **options), line, given, options, case=case, mean=False))
    alphas = [0.5, 1.0, 0.25, 2.0, 0.75]
    line = lines.categorical_focal(False, alpha=1.0, class_weights=alphas)
    fields = {"alpha": 1.0, "class_weights": alphas}
    given = KINDS["distributions"]
    rows.append(from_keras(file, partial(make, alpha=jnp.array(alphas)), line, given, fields,
                           case="alphas", mean=False))  # fmt: skip
    exchanged, line = columns(given), lines.categorical_focal(False)
    rows.append(from_keras(file, partial(make, axis=0), line, exchanged, {"axis": 0}, case="first_axis",
                           axis=0, mean=False))  # fmt: skip
    return rows


def likelihoods() -> list[Row]:
    mean, total, kl = oracle.average, oracle.sum_up, oracle.kl_divergence
    rate, log_rate = oracle.poisson(False, 1e-7), oracle.poisson(True, 1e-8)
    full = partial(F.poisson_nll_loss, full=True)
    return [
        from_keras("kl_divergence", K.KLDivergence, total(kl(False)), "distributions", mean=False),
        from_keras("kl_divergence", K.KLDivergence, total(kl(False)), "positive", mean=False),
        from_torch("kl_divergence", F.kl_div, total(kl(True)), "log_chances", reduction="batchmean",
                   over="sum"),
        from_optax("kl_divergence", optax.kl_divergence, total(kl(True)), "log_chances"),
        from_keras("poisson", K.Poisson, mean(rate), "counts"),
        from_torch("poisson", F.poisson_nll_loss, mean(log_rate), "log_rates"),
        from_torch("poisson", full, mean(oracle.poisson(True, 1e-8, full=True)), "log_rates", {"full": True},
                   case="full"),
        from_torch("poisson", partial(F.poisson_nll_loss, log_input=False), mean(oracle.poisson(False, 1e-8)),
                   "counts", {"log_prediction": False}, case="rates"),
        from_torch("poisson", partial(F.poisson_nll_loss, log_input=False, eps=0.25),
                   mean(oracle.poisson(False, 0.25)), "counts", {"log_prediction": False, "epsilon": 0.25},
                   case="epsilon"),
    ]  # fmt: skip


def hinges() -> list[Row]:
    mean, rows = oracle.average, []
    for file, make, element in (
        ("hinge", K.Hinge, oracle.hinge),
        ("squared_hinge", K.SquaredHinge, oracle.squared_hinge),
    ):
        rows += [
            from_keras(file, make, mean(element), "margins"),
            from_keras(file, make, mean(oracle.label(element)), "margins_of_answers"),
        ]
    return [
        *rows,
        from_optax("hinge", average(optax.hinge_loss), mean(oracle.hinge), "margins"),
        from_keras("categorical_hinge", K.CategoricalHinge, lines.categorical_hinge, "classes", mean=False),
        from_keras("categorical_hinge", K.CategoricalHinge, lines.categorical_hinge, "soft_classes",
                   mean=False),
    ]  # fmt: skip


def cosines() -> list[Row]:
    line, given = lines.cosine_similarity, columns(KINDS["real"])
    return [
        from_keras("cosine_similarity", K.CosineSimilarity, line, "real", mean=False),
        from_keras("cosine_similarity", partial(K.CosineSimilarity, axis=0), line, given, {"axis": 0},
                   case="first_axis", axis=0, mean=False),
        from_optax("cosine_similarity", lambda p, y: -optax.cosine_similarity(p, y), line, "real",
                   note="optax's sign is the other one"),
    ]  # fmt: skip


def reductions() -> list[Row]:
    """Every reduction of Keras with sample weights, over a mean and over classes."""
    rows = []
    for reduction in functions.REDUCTIONS:
        rows += [
            from_keras("mean_absolute_error", K.MeanAbsoluteError, oracle.average(oracle.absolute),
                       weigh(KINDS["real"]), reduction=reduction, case="weighted"),
            from_keras("categorical_crossentropy", K.CategoricalCrossentropy, lines.categorical(False, 0.0),
                       weigh(KINDS["distributions"]), reduction=reduction, case="weighted", mean=False),
            from_keras("sparse_categorical_crossentropy", K.SparseCategoricalCrossentropy,
                       lines.sparse(False), weigh(KINDS["share_indices"]), reduction=reduction,
                       case="weighted", mean=False),
        ]  # fmt: skip
    return rows


CLASS_WEIGHTS = [0.5, 2.0, 1.0, 4.0, 0.25]
TORCH_REDUCTIONS = {"SUM": "sum", "NONE": "none"}


def class_weights() -> list[Row]:
    """PyTorch's mean divides by the weights of the classes, but only where targets are indices."""
    rows = []
    for smoothing in (0.0, 0.25):
        fields = {"class_weights": CLASS_WEIGHTS, "label_smoothing": smoothing}
        dense = lines.categorical(True, smoothing, CLASS_WEIGHTS)
        sparse = lines.sparse(True, smoothing, CLASS_WEIGHTS)
        for file, data, line, mean in (
            ("categorical_crossentropy", "soft_classes", dense, BATCH),
            ("sparse_categorical_crossentropy", "indices", sparse, "MEAN_WITH_SAMPLE_WEIGHT"),
        ):
            rows += [by_class(file, data, line, fields, reduction) for reduction in (mean, "SUM", "NONE")]
    return rows


def by_class(file: str, data: str, line: Line, fields: Fields, reduction: str) -> Row:
    given, knobs = KINDS[data], {"label_smoothing": fields["label_smoothing"]}
    how = TORCH_REDUCTIONS.get(reduction, "mean")

    def function(p: Any, y: Any, how: str = "none") -> Any:
        weight = torch.tensor(CLASS_WEIGHTS)
        return F.cross_entropy(p, y, weight=weight, reduction=how, **knobs)

    def run() -> Mapping[str, Any]:
        return loss_run.pytorch(function, lambda p, y: function(p, y, how).sum(), given, reduction)

    smoothed = "smoothed_" if fields["label_smoothing"] else ""
    name = f"torch_class_weights_{smoothed}{reduction.lower()}"
    return functions.loss(file, name, "torch", "TORCH", reduction, fields, given, run, line)


def all_digits() -> list[Row]:
    mean, smooth = oracle.average, {"label_smoothing": 0.25}
    focal_smooth = mean(oracle.binary_focal(False, gamma=2.5, smoothing=0.25))
    return [
        from_oracle("mean_squared_logarithmic_error", mean(oracle.square_logarithms), "positive"),
        from_oracle("binary_crossentropy", mean(oracle.binary(False, 0.25)), "doubtful", smooth),
        from_oracle("binary_focal_crossentropy", focal_smooth, "doubtful", smooth | {"gamma": 2.5}),
        from_oracle("poisson", mean(oracle.poisson(False, 1e-7)), "counts"),
        from_oracle("squared_hinge", mean(oracle.squared_hinge), "margins"),
        from_oracle("hinge", mean(oracle.label(oracle.hinge)), "margins_of_answers"),
    ]


def rows() -> list[Row]:
    """The cases of every loss but the first three, and what those three have learnt since."""
    tables = (distances, binary, focal, categorical_focal, likelihoods, hinges, cosines, reductions,
              class_weights, all_digits)  # fmt: skip
    return [row for table in tables for row in table()]
