"""Losses of PyTorch, and those that Keras and optax share with it, each from all that have it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import keras
import optax
import torch
import torch.nn.functional as F

from tests.conformance.oracle.losses import (
    class_losses,
    contrastive_losses,
    elementwise_losses,
    index_losses,
    mask_losses,
    stacked_losses,
)
from tests.conformance.oracle.losses.evaluation import Line
from tests.conformance.sources import functions
from tests.conformance.sources.losses import loss_run
from tests.conformance.sources.losses.loss_inputs import (
    ELEMENT_WEIGHTS,
    IMAGE,
    KINDS,
    LOGITS,
    NORMAL,
    REAL,
    SCORES,
    TRIPLETS,
    VECTORS,
    Given,
    weigh,
)
from tests.conformance.sources.losses.loss_source import (
    BATCH,
    TORCH_REDUCTIONS,
    average,
    from_keras,
    from_optax,
    from_torch,
)
from tests.conformance.sources.row import Row

K = keras.losses
MEAN_OF_WEIGHTS = "MEAN_WITH_SAMPLE_WEIGHT"
CLASS_WEIGHTS = [0.5, 2.0, 1.0, 4.0, 0.25]


def by_example(
    file: str, case: str, function: Callable[..., Any], line: Line, given: Given,
    fields: Mapping[str, Any] | None = None, *, reduction: str = BATCH, axis: int | tuple[int, ...] = -1,
    each: Callable[[Any], Any] = lambda values: values,
) -> Row:  # fmt: skip
    """A function of PyTorch that gives a value per example, or what ``each`` makes such a value of."""
    how = TORCH_REDUCTIONS.get(reduction, "mean")

    def reduce(p: Any, y: Any) -> Any:
        return function(p, y, reduction=how).sum()

    def run() -> Mapping[str, Any]:
        return loss_run.pytorch(lambda p, y: each(function(p, y, reduction="none")), reduce, given, reduction)

    return functions.loss(
        file, f"torch_{case}", "torch", "TORCH", reduction, fields or {}, given, run, line, axis
    )


def indices() -> list[Row]:
    rows = []
    weights = partial(F.nll_loss, weight=torch.tensor(CLASS_WEIGHTS))
    weighted = {"class_weights": CLASS_WEIGHTS}
    given = KINDS["log_indices"]
    for reduction in (BATCH, "SUM", "NONE"):
        rows.append(by_example("nll", reduction.lower(), F.nll_loss, index_losses.nll(), given,
                               reduction=reduction))  # fmt: skip
    for reduction in (MEAN_OF_WEIGHTS, "SUM", "NONE"):
        rows.append(by_example("nll", f"class_weights_{reduction.lower()}", weights,
                               index_losses.nll(CLASS_WEIGHTS), given, weighted,
                               reduction=reduction))  # fmt: skip
    return [*rows, *ignore_classes(), *multi_margin()]


def ignore_classes() -> list[Row]:
    """A class that does not count: one of the prediction's, one beside it, and PyTorch's own."""
    rows = []
    for index in (4, -100, 255):
        target = [1, index, 0]
        fields = {} if index == -100 else {"ignore_class": index}
        log_given = dict(KINDS["log_indices"], target=target)
        given = dict(KINDS["indices"], target=target)
        for reduction in (MEAN_OF_WEIGHTS, BATCH, "NONE"):
            stated = {"class_weights": CLASS_WEIGHTS} if reduction == MEAN_OF_WEIGHTS else {}
            knobs = {"ignore_index": index}
            if stated:
                knobs["weight"] = torch.tensor(CLASS_WEIGHTS)
            for file, function, line, data in (
                ("nll", F.nll_loss, index_losses.nll(stated.get("class_weights", ())), log_given),
                ("sparse_categorical_crossentropy", F.cross_entropy,
                 class_losses.sparse(True, 0.0, stated.get("class_weights", ())), given),
            ):  # fmt: skip
                name = f"ignored_{index}_{reduction.lower()}".replace("-", "minus_")
                rows.append(by_example(file, name, partial(function, **knobs), line, data,
                                       {**fields, **stated}, reduction=reduction))  # fmt: skip
    for reduction in functions.REDUCTIONS:
        for ignored_class in (4, -1):
            given = weigh(dict(KINDS["share_indices"], target=[1, ignored_class, 0]))
            make = partial(K.SparseCategoricalCrossentropy, ignore_class=ignored_class)
            name = f"ignored_{ignored_class}".replace("-", "minus_")
            rows.append(from_keras("sparse_categorical_crossentropy", make, class_losses.sparse(False), given,
                                   {"ignore_class": ignored_class}, reduction=reduction, case=name,
                                   mean=False))  # fmt: skip
    smooth = partial(F.cross_entropy, label_smoothing=0.25, ignore_index=4)
    rows.append(by_example("sparse_categorical_crossentropy", "ignored_smoothed", smooth,
                           class_losses.sparse(True, 0.25), dict(KINDS["indices"], target=[1, 4, 0]),
                           {"ignore_class": 4, "label_smoothing": 0.25}))  # fmt: skip
    return rows


def multi_margin() -> list[Row]:
    given = KINDS["indices"]
    table: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("defaults", {}, {}),
        ("squared", {"degree": 2}, {"p": 2}),
        ("margin", {"margin": 0.5}, {"margin": 0.5}),
        ("class_weights", {"class_weights": CLASS_WEIGHTS}, {"weight": torch.tensor(CLASS_WEIGHTS)}),
    ]
    labels = KINDS["label_lists"]
    soft = elementwise_losses.weigh_places(elementwise_losses.binary(True), CLASS_WEIGHTS)
    weights = partial(F.multilabel_soft_margin_loss, weight=torch.tensor(CLASS_WEIGHTS))
    return [
        *(by_example("multi_margin", case, partial(F.multi_margin_loss, **knobs),
                     index_losses.multi_margin(**fields), given, fields) for case, fields, knobs in table),
        by_example("multi_margin", "sum", F.multi_margin_loss, index_losses.multi_margin(), given,
                   reduction="SUM"),
        by_example("multilabel_margin", "defaults", F.multilabel_margin_loss, index_losses.multilabel_margin,
                   labels),
        by_example("multilabel_margin", "none", F.multilabel_margin_loss, index_losses.multilabel_margin,
                   labels, reduction="NONE"),
        by_example("multilabel_soft_margin", "defaults", F.multilabel_soft_margin_loss,
                   elementwise_losses.average(elementwise_losses.binary(True)), KINDS["logits"]),
        by_example("multilabel_soft_margin", "class_weights", weights, soft, KINDS["logits"],
                   {"class_weights": CLASS_WEIGHTS}),
        by_example("multilabel_soft_margin", "far", F.multilabel_soft_margin_loss,
                   elementwise_losses.average(elementwise_losses.binary(True)), KINDS["far_logits"]),
    ]  # fmt: skip


def elements() -> list[Row]:
    o, mean = elementwise_losses, elementwise_losses.average
    half = {"margin": 0.5}
    divergence = partial(F.kl_div, log_target=True)
    return [
        from_torch("soft_margin", F.soft_margin_loss, mean(o.soft_margin), "margins"),
        from_torch("hinge_embedding", F.hinge_embedding_loss, mean(o.hinge_embedding(1.0)), "distances"),
        from_torch("hinge_embedding", partial(F.hinge_embedding_loss, margin=0.5),
                   mean(o.hinge_embedding(0.5)), "distances", half, case="margin"),
        from_keras("mean_absolute_percentage_error", K.MeanAbsolutePercentageError, mean(o.percentage),
                   "real"),
        functions.loss("mean_absolute_percentage_error", "all_digits", "lecture", "KERAS", BATCH, {},
                       KINDS["real"], None, mean(o.percentage)),
        from_optax("perceptron", average(optax.losses.perceptron_loss), mean(o.perceptron), "margins"),
        from_torch("kl_divergence", divergence, o.sum_up(o.log_target_divergence), "log_distributions",
                   {"log_target": True}, reduction="batchmean", over="sum", case="log_target"),
        from_optax("kl_divergence", optax.losses.kl_divergence_with_log_targets,
                   o.sum_up(o.log_target_divergence), "log_distributions", {"log_target": True},
                   case="log_target"),
        positive_weights(),
        *element_weights(),
    ]  # fmt: skip


def positive_weights() -> Row:
    function = partial(F.binary_cross_entropy_with_logits, pos_weight=torch.tensor(CLASS_WEIGHTS))
    return from_torch("binary_crossentropy", function, elementwise_losses.positive_by_place(CLASS_WEIGHTS),
                      "doubtful_logits", {"positive_weights": CLASS_WEIGHTS},
                      case="positive_weights")  # fmt: skip


def element_weights() -> list[Row]:
    """PyTorch's weight: the means of squared and absolute errors divide by the sum of the weights."""
    o, mean = elementwise_losses, elementwise_losses.average
    weight = torch.tensor(ELEMENT_WEIGHTS)

    def square(p: float, y: float) -> tuple[float, float]:
        return (p - y) ** 2, 2 * (p - y)

    table: list[tuple[str, Any, Any, str, str, dict[str, Any]]] = [
        ("mean_squared_error", F.mse_loss, square, "real", MEAN_OF_WEIGHTS, {}),
        ("mean_absolute_error", F.l1_loss, o.absolute, "real", MEAN_OF_WEIGHTS, {}),
        ("huber", F.huber_loss, o.huber(1.0), "real", BATCH, {}),
        ("binary_crossentropy", F.binary_cross_entropy_with_logits, o.binary(True), "doubtful_logits", BATCH,
         {}),
        ("binary_crossentropy", F.binary_cross_entropy, o.binary(False), "doubtful", BATCH,
         {"from_logits": False}),
    ]  # fmt: skip
    return [
        by_example(file, f"element_weights_{data}", partial(function, weight=weight), mean(element),
                   KINDS[data] | {"sample_weight": ELEMENT_WEIGHTS}, fields, reduction=reduction,
                   each=lambda values: values.mean(-1))
        for file, function, element, data, reduction, fields in table
    ]  # fmt: skip


def part(values: Any, index: int) -> Any:
    return values[..., index, :]


def stack_cases() -> list[Row]:
    o, axes = stacked_losses, (-2, -1)
    mean = {"axis": axes, "each": lambda values: values.mean(-1)}

    def normal(p: Any, y: Any, **knobs: Any) -> Any:
        return F.gaussian_nll_loss(part(p, 0), y, part(p, 1), **knobs)

    def ranking(p: Any, y: Any, **knobs: Any) -> Any:
        return F.margin_ranking_loss(part(p, 0), part(p, 1), y, **knobs)

    def cosine(p: Any, y: Any, **knobs: Any) -> Any:
        return F.cosine_embedding_loss(part(p, 0), part(p, 1), y, **knobs)

    def triplet(stack: Any, y: Any, **knobs: Any) -> Any:
        return F.triplet_margin_loss(part(stack, 0), part(stack, 1), part(stack, 2), **knobs)

    def triplet_by_cosine(p: Any, y: Any, **knobs: Any) -> Any:
        return F.triplet_margin_with_distance_loss(
            part(p, 0), part(p, 1), part(p, 2),
            distance_function=lambda a, b: 1 - F.cosine_similarity(a, b, eps=1e-6), **knobs,
        )  # fmt: skip

    def triplet_in_optax(p: Any, y: Any, **knobs: Any) -> Any:
        return optax.losses.triplet_margin_loss(part(p, 0), part(p, 1), part(p, 2), **knobs)

    def in_optax(case: str, fields: Mapping[str, Any], knobs: Mapping[str, Any], line: Line) -> Row:
        return functions.loss(
            "triplet_margin", f"optax_{case}", "optax", "OPTAX", BATCH, fields, TRIPLETS,
            lambda: loss_run.optax(partial(triplet_in_optax, **knobs), TRIPLETS, BATCH), line, axes,
        )  # fmt: skip

    return [
        by_example("gaussian_nll", "defaults", normal, o.gaussian_nll(), NORMAL, **mean),
        by_example("gaussian_nll", "full", partial(normal, full=True), o.gaussian_nll(True), NORMAL,
                   {"full": True}, **mean),
        by_example("gaussian_nll", "epsilon", partial(normal, eps=0.25), o.gaussian_nll(epsilon=0.25), NORMAL,
                   {"epsilon": 0.25}, **mean),
        by_example("margin_ranking", "defaults", ranking, o.margin_ranking(), SCORES, **mean),
        by_example("margin_ranking", "margin", partial(ranking, margin=0.5), o.margin_ranking(0.5), SCORES,
                   {"margin": 0.5}, **mean),
        by_example("cosine_embedding", "defaults", cosine, o.cosine_embedding(), VECTORS, axis=axes),
        by_example("cosine_embedding", "margin", partial(cosine, margin=0.25), o.cosine_embedding(0.25),
                   VECTORS, {"margin": 0.25}, axis=axes),
        by_example("cosine_embedding", "none", cosine, o.cosine_embedding(), VECTORS, axis=axes,
                   reduction="NONE"),
        by_example("triplet_margin", "defaults", triplet, o.triplet_margin(o.minkowski()), TRIPLETS,
                   axis=axes),
        by_example("triplet_margin", "swap", partial(triplet, swap=True, margin=4.0),
                   o.triplet_margin(o.minkowski(), 4.0, True), TRIPLETS, {"swap": True, "margin": 4.0},
                   axis=axes),
        by_example("triplet_margin", "degree_3", partial(triplet, p=3, eps=0.25),
                   o.triplet_margin(o.minkowski(3, 0.25)), TRIPLETS, {"degree": 3.0, "epsilon": 0.25},
                   axis=axes),
        by_example("triplet_margin", "degree_1", partial(triplet, p=1), o.triplet_margin(o.minkowski(1)),
                   TRIPLETS, {"degree": 1.0}, axis=axes),
        by_example("triplet_margin", "cosine", partial(triplet_by_cosine, swap=True),
                   o.triplet_margin(o.cosine_distance(1e-6), swap=True), TRIPLETS,
                   {"distance": "TRIPLET_DISTANCE_COSINE", "swap": True}, axis=axes),
        in_optax("defaults", {}, {}, o.triplet_margin(o.minkowski(in_sum=True))),
        in_optax("degree_4", {"degree": 4.0, "epsilon": 0.25, "margin": 2.0},
                 {"norm_degree": 4, "eps": 0.25, "margin": 2.0},
                 o.triplet_margin(o.minkowski(4, 0.25, True), 2.0)),
    ]  # fmt: skip


def masks() -> list[Row]:
    """Keras takes sums over every axis unless some are named: then there is one loss."""
    o, every = mask_losses, (0, 1, 2)
    rows = []
    for axes, case in (((), "every_axis"), ((1, 2), "axes"), ((-1,), "last_axis")):
        fields, knobs = {"axes": list(axes)} if axes else {}, {"axis": axes or None}
        for file, make, line in (("dice", K.Dice, o.dice()), ("tversky", K.Tversky, o.tversky())):
            rows.append(from_keras(file, partial(make, **knobs), line, IMAGE, fields, case=case,
                                   axis=axes or every, mean=False))  # fmt: skip
    weights = {"alpha": 0.25, "beta": 1.5}
    rows.append(from_keras("tversky", partial(K.Tversky, **weights), o.tversky(**weights), IMAGE, weights,
                           case="weights", axis=every, mean=False))  # fmt: skip
    return rows


def from_optax_at(
    file: str, case: str, function: Callable[..., Any], line: Line, given: Given,
    fields: Mapping[str, Any] | None = None,
) -> Row:  # fmt: skip
    """A function of optax that gives a value per example."""
    return functions.loss(
        file, f"optax_{case}", "optax", "OPTAX", BATCH, fields or {}, given,
        lambda: loss_run.optax(function, given, BATCH), line,
    )  # fmt: skip


def of_one_hot(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of class indices as one of one-hot targets."""
    return lambda p, y: function(p, jnp.argmax(y, axis=-1))


def scores() -> list[Row]:
    """Losses of scores of classes, of binary labels and of ranked lists."""
    o, x = index_losses, optax.losses
    shares, classes, soft = KINDS["share_indices"], KINDS["indices"], KINDS["soft_classes"]
    many = [f"FENCHEL_YOUNG_REGULARIZER_{name}" for name in ("SHANNON", "GINI", "NONE")]

    def cumulant(p: Any) -> Any:
        q = optax.projections.projection_simplex(p)
        return jnp.dot(q, p) + 0.5 * jnp.dot(q, 1 - q)

    generalized = K.CategoricalGeneralizedCrossEntropy
    makes = (jax.nn.logsumexp, cumulant, jnp.max)
    return [
        from_keras("generalized_crossentropy", generalized, o.generalize_crossentropy(), shares,
                   case="defaults", mean=False),
        from_keras("generalized_crossentropy", partial(generalized, q=0.875),
                   o.generalize_crossentropy(0.875), shares, {"q": 0.875}, case="q", mean=False),
        from_optax_at("multiclass_hinge", "indices", x.multiclass_hinge_loss, o.best_score(1.0), classes),
        from_optax_at("multiclass_perceptron", "indices", x.multiclass_perceptron_loss, o.best_score(0.0),
                      classes),
        from_optax("sparsemax_loss", average(x.sparsemax_loss),
                   elementwise_losses.average(elementwise_losses.sparsemax), "logits"),
        from_optax_at("ranking_softmax", "relevances", partial(x.ranking_softmax_loss, reduce_fn=None),
                      class_losses.crossentropy_of_logits, soft),
        from_optax_at("ranking_softmax", "graded", partial(x.ranking_softmax_loss, reduce_fn=None),
                      class_losses.crossentropy_of_logits, KINDS["log_rates"]),
        *(from_optax_at("fenchel_young", name.rpartition("_")[2].lower(),
                        x.make_fenchel_young_loss(make), class_losses.fenchel_young(name.rpartition("_")[2]),
                        soft, {"regularizer": name})
          for name, make in zip(many, makes, strict=True)),
        from_optax_at("fenchel_young", "multiclass_sparsemax", of_one_hot(x.multiclass_sparsemax_loss),
                      class_losses.fenchel_young("GINI"), KINDS["classes"], {"regularizer": many[1]}),
    ]  # fmt: skip


CLASSES = [0, 1, 0, 2, 1, 0]
EMBEDDINGS = {"prediction": [*LOGITS, *REAL], "target": CLASSES}
UNIT = [[0.6, 0.8, 0.0], [0.0, 0.6, 0.8], [0.8, 0.0, 0.6], [-0.6, 0.0, 0.8], [0.0, -0.8, 0.6],
        [0.28, 0.96, 0.0]]  # fmt: skip


def contrastive() -> list[Row]:
    """Rows of a batch of which each is compared with the others."""
    o = contrastive_losses
    unit = {"prediction": [[round(x * 1024) / 1024 for x in row] for row in UNIT], "target": CLASSES}

    def row(
        file: str, case: str, source: str, fields: Mapping[str, Any], reduction: str, given: Given,
        oracle: Callable[..., Any], framework: Callable[[], Any], **knobs: Any,
    ) -> Row:  # fmt: skip
        convention = {"keras": "KERAS", "optax": "OPTAX"}[source]
        spec = {"convention": f"CONVENTION_{convention}", "reduction": f"LOSS_REDUCTION_{reduction}",
                file: fields}  # fmt: skip
        return Row("losses", file, f"{source}_{case}", source, spec, given,
                   lambda: oracle(given["prediction"], given["target"], reduction, **knobs),
                   framework)  # fmt: skip

    rows = []
    for reduction in (BATCH, "SUM", "NONE"):
        for case, fields in (("defaults", {}), ("scale", {"gamma": 4.0, "margin": 0.25})):
            name = f"{case}_{reduction.lower()}"
            rows.append(row("circle", name, "keras", fields, reduction, unit, o.circle,
                            partial(loss_run.keras, partial(K.Circle, **fields), unit, reduction),
                            gamma=fields.get("gamma", 80.0), margin=fields.get("margin", 0.4)))  # fmt: skip
    for temperature in (0.07, 0.5):
        fields = {} if temperature == 0.07 else {"temperature": temperature}
        rows.append(row("ntxent", f"temperature_{temperature}".replace(".", "_"), "optax", fields, BATCH,
                        EMBEDDINGS, o.ntxent, partial(ntxent_in_optax, temperature),
                        temperature=temperature))  # fmt: skip
    return rows


def ntxent_in_optax(temperature: float) -> dict[str, Any]:
    """optax gives the mean of pairs alone; values per example are the oracle's, which that mean checks."""
    labels = jnp.array(CLASSES)
    value, slope = jax.value_and_grad(lambda p: optax.losses.ntxent(p, labels, temperature))(
        jnp.array(EMBEDDINGS["prediction"])
    )
    found = contrastive_losses.ntxent(EMBEDDINGS["prediction"], CLASSES, BATCH, temperature)
    return {"value": float(value), "per_example": found["per_example"], "gradient": slope.tolist()}


def rows() -> list[Row]:
    """Every case of these losses."""
    assert jax.config.jax_enable_x64, "set JAX_ENABLE_X64=1 before anything imports JAX"
    return [row for table in (indices, elements, stack_cases, masks, scores, contrastive) for row in table()]
