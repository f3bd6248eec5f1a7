"""Rows of ``gradient/step_counting``, ``gradient/overrides`` and some of ``gradient/groups``.

Sessions whose steps have no gradient for some tensors, or other settings for each tensor and step.
PyTorch counts the steps of each parameter that has a gradient; Keras and optax count all of them.
optax has no word for a gradient that is missing: it updates every tensor, with zeros for those
without a gradient, and then they and their state are put back.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import torch

from tests.conformance.inputs import EPSILON, make_nested
from tests.conformance.oracle import later_optimizers, optimizers
from tests.conformance.oracle import steps as oracle
from tests.conformance.oracle.lines import shape_of
from tests.conformance.sources import guards
from tests.conformance.sources.guards import Nested
from tests.conformance.sources.row import Row, optimizer_spec, underscore

PARAMETERS: Nested = {
    "bias": [1.5, -2.0],
    "kernel": [[-1.25, 0.875], [2.0, 1.75], [-0.75, -1.5]],
    "scale": [1.25, -1.0, 1.75],
}
SHAPES = {name: shape_of(value) for name, value in PARAMETERS.items()}
RATES = guards.RATES
LEFT_OUT = [{"kernel"}, {"bias"}, {"kernel"}, set(), {"bias", "scale"}, {"bias"}, {"kernel", "scale"}, set(),
            {"scale"}]  # fmt: skip
"""Tensors without a gradient, call by call. The kernel's first gradient comes with the second call,
and tensors that have seen as many gradients as another have not seen them in the same calls."""

KNOBS = {"beta1": 0.8, "beta2": 0.95, "epsilon": EPSILON}
KERAS_KNOBS = underscore(KNOBS)
TORCH_KNOBS = {"betas": (0.8, 0.95), "eps": EPSILON}
OPTAX_KNOBS = {"b1": 0.8, "b2": 0.95, "eps": EPSILON}
PER_TENSOR = {"step_counting": "STEP_COUNTING_PER_TENSOR"}
PER_SESSION = {"step_counting": "STEP_COUNTING_PER_SESSION"}

Path = Sequence[tuple[Nested, Nested]]
"""The parameters and their average after each call."""

Change = Mapping[str, Any]
"""Options of a framework's optimizer, by name."""

Changes = Mapping[int, Mapping[str, Change]]
"""Options that hold in one call, by tensor."""


def gradients(left_out: Sequence[set[str]] = LEFT_OUT) -> list[Nested]:
    """The gradients of each call, without those of the tensors left out."""
    return [
        {
            name: make_nested(shape, seed=31 * call + seed)
            for seed, (name, shape) in enumerate(SHAPES.items(), 1)
            if name not in left_out[call]
        }
        for call in range(len(left_out))
    ]


EVERYWHERE = gradients([set()] * len(RATES))
"""A gradient for each tensor in each call."""


@dataclasses.dataclass(frozen=True)
class Run:
    """What a framework is given.

    Attributes:
        gradients: those of each call; tensors without one are left out.
        rates: the rate of each call.
        options: of the optimizer, by tensor; those for all tensors are the factory's.
        changes: options in single calls.
        frozen: tensors that stay as they are.
    """

    gradients: list[Nested] = dataclasses.field(default_factory=gradients)
    rates: Sequence[float] = dataclasses.field(default_factory=lambda: list(RATES))
    options: Mapping[str, Change] = dataclasses.field(default_factory=dict)
    changes: Changes = dataclasses.field(default_factory=dict)
    frozen: frozenset[str] = frozenset()


Runner = Callable[[Run], Path]


def on_torch(
    make: Callable[..., Any],
    *,
    clip: float | None = None,
    average: float | None = None,
    has_rate: bool = True,
    **options: Any,
) -> Runner:
    """Steps a fresh optimizer with a parameter group for each tensor.

    PyTorch ignores what it does not know in a group: ``factor`` multiplies the rate of each call, and
    ``l1`` is the factor of the tensor's L1 penalty in the loss.
    """

    def runner(run: Run) -> Path:
        names = sorted(PARAMETERS)
        tensors = {n: torch.tensor(PARAMETERS[n], requires_grad=n not in run.frozen) for n in names}
        groups = [{"params": [tensors[n]], **run.options.get(n, {})} for n in names]
        optimizer = make(groups, **options)
        plain = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        mean = torch.optim.swa_utils.get_ema_multi_avg_fn(average or 0.0)
        averages: list[Any] = []
        path = []
        for call, given in enumerate(run.gradients):
            for name, group, before in zip(names, optimizer.param_groups, plain, strict=True):
                lr = run.rates[call] * before.get("factor", 1.0)
                rate = {"lr": lr} if has_rate else {}
                group.update({**before, **rate, **run.changes.get(call, {}).get(name, {})})
                if name in given:
                    add_gradient(tensors[name], given[name], group.get("l1", 0.0))
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(tensors.values(), clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            now = [tensors[n].detach() for n in names]
            if call:
                mean(averages, now, call)
            else:
                averages = [t.clone() for t in now]
            path.append((guards.name_arrays(names, now), guards.name_arrays(names, averages)))
        return path

    return runner


def add_gradient(tensor: Any, given: Any, l1: float) -> None:
    """Back-propagates a function with this gradient, and the penalty of L1 regularization."""
    loss = (tensor * torch.tensor(given)).sum()
    (loss + l1 * tensor.abs().sum() if l1 else loss).backward()


def on_keras(make: Callable[[float], Any]) -> Runner:
    """Steps a fresh optimizer, made for the first rate; changes are attributes of it."""

    def runner(run: Run) -> Path:
        names, optimizer, path = sorted(PARAMETERS), make(run.rates[0]), []
        variables = {
            n: keras.Variable(PARAMETERS[n], dtype="float64", trainable=n not in run.frozen) for n in names
        }
        trained = [n for n in names if variables[n].trainable]
        optimizer.build([variables[n] for n in trained])
        for call, given in enumerate(run.gradients):
            change = next(iter(run.changes.get(call, {}).values()), {})
            before = {name: getattr(optimizer, name) for name in change if name != "learning_rate"}
            for name, value in {"learning_rate": run.rates[call], **change}.items():
                setattr(optimizer, name, value)
            known = [jnp.array(given[n], "float64") if n in given else None for n in trained]
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Gradients do not exist")
                optimizer.apply(known, [variables[n] for n in trained])
            for name, value in before.items():
                setattr(optimizer, name, value)
            now = guards.name_arrays(names, (np.asarray(variables[n].value) for n in names))
            path.append((now, now))
        return path

    return runner


def on_optax(make: Callable[..., Any]) -> Runner:
    """Steps a transformation that is made again for each step's rate and changes."""

    def runner(run: Run) -> Path:
        parameters = {n: jnp.array(v, "float64") for n, v in PARAMETERS.items()}
        state, path = make(run.rates[0]).init(parameters), []
        for call, given in enumerate(run.gradients):
            change = next(iter(run.changes.get(call, {}).values()), {})
            step = make(**{"learning_rate": run.rates[call], **change})
            filled = {
                n: jnp.array(given[n], "float64") if n in given else jnp.zeros_like(p)
                for n, p in parameters.items()
            }
            updates, after = step.update(filled, state, parameters)
            state = without(given, state, after)
            parameters = without(given, parameters, optax.apply_updates(parameters, updates))
            now = guards.name_arrays(
                sorted(parameters), (np.asarray(parameters[n]) for n in sorted(parameters))
            )
            path.append((now, now))
        return path

    return runner


def without(given: Nested, before: Any, after: Any) -> Any:
    """A tree after a step, in which the tensors that are not given are as they were before it."""

    def leaf(path: Any, old: Any, new: Any) -> Any:
        named = {key.key for key in path if isinstance(key, jax.tree_util.DictKey)} & PARAMETERS.keys()
        return new if named <= given.keys() else old

    return jax.tree_util.tree_map_with_path(leaf, before, after)


def count(
    rule: oracle.Rule,
    knobs: Mapping[str, Any] | None = None,
    *,
    own: Mapping[str, Mapping[str, Any]] | None = None,
    factors: Mapping[str, float] | None = None,
    changes: Changes | None = None,
    **how: Any,
) -> Runner:
    """The oracle with a rule that gets its settings and the number of each step.

    Args:
        rule: moves one element.
        knobs: settings of all tensors.
        own: settings of single tensors in all calls.
        factors: what each call's rate is multiplied by, for single tensors.
        changes: settings of single tensors in single calls.
        how: further arguments of `oracle.trajectory`.
    """

    def runner(run: Run) -> Path:
        steps = [
            oracle.Step(
                guards.flat(given),
                {
                    n: {"lr": run.rates[call] * (factors or {}).get(n, 1.0), **(knobs or {}),
                        **(own or {}).get(n, {}), **(changes or {}).get(call, {}).get(n, {})}
                    for n in PARAMETERS.keys() - run.frozen
                },
            )
            for call, given in enumerate(run.gradients)
        ]  # fmt: skip
        path = oracle.trajectory(guards.flat(PARAMETERS), steps, rule, **how)
        return [(guards.nest_all(p, SHAPES), guards.nest_all(a, SHAPES)) for p, a in path]

    return runner


def by_tensor(scalar: Callable[..., list[float]], **knobs: Any) -> Runner:
    """The oracle for a session that counts the steps of each tensor."""

    def runner(run: Run) -> Path:
        calls = [guards.flat(given) for given in run.gradients]
        path = oracle.own_steps(guards.flat(PARAMETERS), calls, run.rates, scalar, **knobs)
        return [(guards.nest_all(p, SHAPES),) * 2 for p in path]

    return runner


def row(
    file: str, name: str, source: str, optimizer: Mapping[str, Any], expected: Runner, framework: Runner,
    fields: Mapping[str, Any] | None = None, *, run: Run | None = None, scheduled: bool = True,
    overrides: Mapping[int, list[dict[str, Any]]] | None = None, note: str = "",
) -> Row:  # fmt: skip
    """A case; overrides are those of single calls."""
    run = run or Run()
    schedule = {"schedule": guards.piecewise(run.rates)} if scheduled else {}
    spec = {"optimizer": optimizer, **schedule, **(fields or {})}
    given: dict[str, Any] = {"parameters": PARAMETERS, "gradients": run.gradients}
    if overrides is not None:
        given["overrides"] = [overrides.get(call, []) for call in range(len(run.gradients))]

    def answer(runner: Runner) -> dict[str, Any]:
        path = runner(run)
        found = {"parameters": [parameters for parameters, _ in path]}
        return found | ({"average": [a for _, a in path]} if "weight_average" in spec else {})

    return Row("gradient", file, name, source, spec, given, lambda: answer(expected),
               lambda: answer(framework), note=note)  # fmt: skip


def per_tensor_rows() -> list[Row]:
    """A tensor without a gradient does not age; the TORCH convention asks for that without a word."""
    o, eps = torch.optim, {"epsilon": EPSILON}
    hatted = {"placement": "OUTSIDE", "correction": "HATTED"}
    folded = {"placement": "OUTSIDE", "correction": "FOLDED"}
    rho = {"rho": 0.8, "epsilon": EPSILON}
    decaying = {"learning_rate_decay": 0.25, **eps}

    def case(
        name: str, make: Callable[..., Any], scalar: Callable[..., list[float]], fields: dict[str, Any],
        options: dict[str, Any], **knobs: Any,
    ) -> Row:  # fmt: skip
        return row("step_counting", f"torch_{name}", "torch", optimizer_spec("TORCH", name, **fields),
                   by_tensor(scalar, **knobs), on_torch(make, **options))  # fmt: skip

    def adam(name: str, fields: dict[str, Any], framework: Runner, run: Run | None = None, **how: Any) -> Row:
        return row("step_counting", f"torch_adam_{name}", "torch", optimizer_spec("TORCH", "adam", **KNOBS),
                   count(oracle.adam, KNOBS, by_tensor=True, **how), framework, fields,
                   run=run)  # fmt: skip

    return [
        case("sgd", o.SGD, optimizers.sgd, {}, {}),
        case("momentum", o.SGD, optimizers.momentum, {"momentum": 0.8, "dampening": 0.25},
             {"momentum": 0.8, "dampening": 0.25}, form="HEAVY_BALL", mu=0.8, dampening=0.25),
        case("nesterov", o.SGD, optimizers.nesterov, {"momentum": 0.8}, {"momentum": 0.8, "nesterov": True},
             form="TORCH", mu=0.8),
        case("adagrad", o.Adagrad, optimizers.adagrad, decaying, {"lr_decay": 0.25, "eps": EPSILON},
             placement="OUTSIDE", initial=0.0, decay=0.25, **eps),
        case("rmsprop", o.RMSprop, optimizers.rmsprop, {"momentum": 0.5, "centered": True, **rho},
             {"alpha": 0.8, "eps": EPSILON, "momentum": 0.5, "centered": True},
             mu=0.5, placement="OUTSIDE", centered=True, form="HEAVY_BALL", **rho),
        case("adadelta", o.Adadelta, optimizers.adadelta, rho, {"rho": 0.8, "eps": EPSILON}, **rho),
        case("adam", o.Adam, optimizers.adam, KNOBS, TORCH_KNOBS, **hatted, **KNOBS),
        case("amsgrad", o.Adam, optimizers.adam, KNOBS, {"amsgrad": True, **TORCH_KNOBS}, maximum="RAW",
             **hatted, **KNOBS),
        case("adamw", o.AdamW, optimizers.adam, {"weight_decay": 0.5, **KNOBS},
             {"weight_decay": 0.5, **TORCH_KNOBS}, weight_decay=0.5, **hatted, **KNOBS),
        case("nadam", o.NAdam, optimizers.nadam, {"momentum_decay": 0.5, **KNOBS},
             {"momentum_decay": 0.5, **TORCH_KNOBS}, form="SCHEDULED", psi=0.5, **KNOBS),
        case("radam", o.RAdam, later_optimizers.radam, {**KNOBS, "beta2": 0.9},
             {"betas": (0.8, 0.9), "eps": EPSILON}, **folded, **{**KNOBS, "beta2": 0.9}),
        case("adamax", o.Adamax, optimizers.adamax, KNOBS, TORCH_KNOBS, form="GRADIENT", **KNOBS),
        row("step_counting", "torch_rprop", "torch",
            optimizer_spec("TORCH", "rprop", learning_rate=0.02, step_size_max=0.04),
            by_tensor(optimizers.rprop, initial=0.02, eta_minus=0.5, eta_plus=1.2, smallest=1e-6,
                      largest=0.04),
            on_torch(o.Rprop, lr=0.02, step_sizes=(1e-6, 0.04), has_rate=False), scheduled=False),
        adam("clipped", {"gradient": {"clip": {"by_global_norm": {"max_norm": 0.75}}}},
             on_torch(o.Adam, clip=0.75, **TORCH_KNOBS), largest=0.75, epsilon=1e-6),
        adam("averaged", {"weight_average": {"decay": 0.75}},
             on_torch(o.Adam, average=0.75, **TORCH_KNOBS), average=0.75),
        adam("groups", {"groups": [{"name": "stiff", "tensors": ["[bk]*"], "l2": 0.25}]},
             on_torch(o.Adam, **TORCH_KNOBS),
             Run(options={n: {"weight_decay": 0.25} for n in ("bias", "kernel")}),
             own={n: {"l2": 0.25} for n in ("bias", "kernel")}),
        row("step_counting", "torch_adam_stated", "torch",
            optimizer_spec("KERAS", "adam", bias_correction="BIAS_CORRECTION_HATTED", **KNOBS),
            count(oracle.adam, KNOBS, by_tensor=True), on_torch(o.Adam, **TORCH_KNOBS), PER_TENSOR),
    ]  # fmt: skip


def per_session_rows() -> list[Row]:
    """Every tensor ages with each step; all conventions but TORCH ask for that without a word."""
    k, spec, psi = keras.optimizers, optimizer_spec, {"psi": 1.0}

    def of_keras(
        name: str, make: Callable[..., Any], rule: oracle.Rule, fields: dict[str, Any], case: str = "",
        **more: Any,
    ) -> Row:  # fmt: skip
        return row("step_counting", f"keras_{case or name}", "keras", spec("KERAS", name, **fields),
                   count(rule, {**KNOBS, **more}),
                   on_keras(lambda rate: make(learning_rate=rate, **underscore(fields))))  # fmt: skip

    def of_optax(
        name: str, make: Callable[..., Any], rule: oracle.Rule, fields: dict[str, Any], **how: Any
    ) -> Row:
        return row("step_counting", f"optax_{name}", "optax", spec("OPTAX", name, **fields),
                   count(rule, {**KNOBS, **how}), on_optax(make))  # fmt: skip

    return [
        of_keras("adam", k.Adam, oracle.fold_adam, KNOBS),
        of_keras("adamw", k.AdamW, oracle.fold_adam, {"weight_decay": 0.5, **KNOBS}, decay=0.5),
        of_keras("nadam", k.Nadam, oracle.schedule_nadam, KNOBS, **psi),
        of_keras("adamax", k.Adamax, oracle.adamax, KNOBS),
        row("step_counting", "keras_adam_clipped", "keras", spec("KERAS", "adam", **KNOBS),
            count(oracle.fold_adam, KNOBS, largest=0.75),
            on_keras(lambda rate: k.Adam(rate, global_clipnorm=0.75, **KERAS_KNOBS)),
            {"gradient": {"clip": {"by_global_norm": {"max_norm": 0.75}}}}),
        row("step_counting", "keras_adam_stated", "keras",
            spec("TORCH", "adam", bias_correction="BIAS_CORRECTION_FOLDED", **KNOBS),
            count(oracle.fold_adam, KNOBS), on_keras(lambda rate: k.Adam(rate, **KERAS_KNOBS)),
            PER_SESSION),
        of_optax("adam", lambda learning_rate: optax.adam(learning_rate, **OPTAX_KNOBS), oracle.adam, KNOBS),
        of_optax("adamw", lambda learning_rate: optax.adamw(learning_rate, weight_decay=0.5, **OPTAX_KNOBS),
                 oracle.adam, {"weight_decay": 0.5, **KNOBS}, decay=0.5),
        of_optax("amsgrad", lambda learning_rate: optax.amsgrad(learning_rate, **OPTAX_KNOBS),
                 oracle.amsgrad_corrected, KNOBS),
        of_optax("momentum", lambda learning_rate: optax.sgd(learning_rate, 0.8), oracle.heavy_ball,
                 {"momentum": 0.8}, mu=0.8),
    ]  # fmt: skip


def group_rows() -> list[Row]:
    """Groups with regularization of their own, and frozen ones."""
    o, spec = torch.optim, optimizer_spec
    two = ("bias", "scale")
    sgd, adam = spec("TORCH", "sgd"), spec("TORCH", "adam", **KNOBS)
    still = frozenset({"kernel"})
    frozen = Run(gradients([{"kernel"}] * len(RATES)), frozen=still)
    clip = {"clip": {"by_global_norm": {"max_norm": 0.75}}}
    freeze = {"groups": [{"name": "still", "tensors": ["kernel"], "frozen": True}]}

    def plain_and_stiff(name: str) -> dict[str, Any]:
        return {"gradient": {name: 0.0625}, "groups": [
            {"name": "plain", "tensors": list(two), name: 0.0},
            {"name": "stiff", "tensors": ["kernel"], name: 0.25},
        ]}  # fmt: skip

    of_two = {**dict.fromkeys(two, 0.0), "kernel": 0.25}
    decays = Run(EVERYWHERE, options={n: {"weight_decay": x} for n, x in of_two.items()})
    penalties = {n: {"l1": x} for n, x in of_two.items()}
    penalized = Run(EVERYWHERE, options=penalties)
    only_bias = {"gradient": {"l2": 0.25}, "groups": [{"name": "plain", "tensors": ["bias"], "l2": 0.0}]}
    halves = {"bias": 0.0, "kernel": 0.25, "scale": 0.25}
    labels = {"bias": "moves", "kernel": "stays", "scale": "moves"}

    def mask(learning_rate: float) -> Any:
        moves = optax.chain(optax.clip_by_global_norm(0.75), optax.adam(learning_rate, **OPTAX_KNOBS))
        return optax.multi_transform({"moves": moves, "stays": optax.set_to_zero()}, labels)

    return [
        row("groups", "torch_l2", "torch", sgd,
            count(oracle.sgd, own={n: {"l2": x} for n, x in of_two.items()}), on_torch(o.SGD),
            plain_and_stiff("l2"), run=decays),
        row("groups", "torch_adam_l2", "torch", adam,
            count(oracle.adam, KNOBS, own={n: {"l2": x} for n, x in halves.items()}),
            on_torch(o.Adam, **TORCH_KNOBS), only_bias,
            run=Run(EVERYWHERE, options={n: {"weight_decay": x} for n, x in halves.items()})),
        row("groups", "torch_l1", "torch", sgd,
            count(oracle.sgd, own=penalties), on_torch(o.SGD), plain_and_stiff("l1"), run=penalized),
        row("groups", "torch_l1_clipped", "torch", adam,
            count(oracle.adam, KNOBS, own=penalties, largest=0.75, epsilon=1e-6),
            on_torch(o.Adam, clip=0.75, **TORCH_KNOBS),
            {**plain_and_stiff("l1"), "gradient": {"l1": 0.0625, **clip}}, run=penalized),
        row("groups", "torch_frozen", "torch", adam,
            count(oracle.adam, KNOBS, largest=0.75, epsilon=1e-6),
            on_torch(o.Adam, clip=0.75, **TORCH_KNOBS), {"gradient": clip, **freeze}, run=frozen),
        row("groups", "torch_frozen_decay", "torch", spec("TORCH", "adamw", weight_decay=0.5, **KNOBS),
            count(oracle.adam, {"decay": 0.5, **KNOBS}, average=0.75),
            on_torch(o.AdamW, average=0.75, weight_decay=0.5, **TORCH_KNOBS),
            {"weight_average": {"decay": 0.75}, **freeze}, run=frozen),
        row("groups", "keras_frozen", "keras", spec("KERAS", "adam", **KNOBS),
            count(oracle.fold_adam, {"decay": 0.5, **KNOBS}, largest=0.75),
            on_keras(lambda rate: keras.optimizers.Adam(rate, weight_decay=0.5, global_clipnorm=0.75,
                                                        **KERAS_KNOBS)),
            {"gradient": clip, "decoupled_weight_decay": 0.5, **freeze}, run=frozen),
        row("groups", "optax_frozen", "optax", spec("OPTAX", "adam", **KNOBS),
            count(oracle.adam, KNOBS, largest=0.75), on_optax(mask), {"gradient": clip, **freeze},
            run=Run(EVERYWHERE, frozen=still),
            note="the frozen tensor has gradients, which nothing comes of"),
    ]  # fmt: skip


def override_rows() -> list[Row]:
    """Hyperparameters that have other values in single steps."""
    o, k, spec, on, own = torch.optim, keras.optimizers, optimizer_spec, everywhere, dict.fromkeys
    slow, rho = ("bias", "scale"), {"rho": 0.8, "epsilon": EPSILON}
    grouped = {"groups": [{"name": "slow", "tensors": list(slow), "learning_rate_factor": 0.25}]}
    stiff = {"gradient": {"l2": 0.0625}, "groups": [{"name": "stiff", "tensors": ["kernel"], "l2": 0.25}]}
    plain = {"bias": 0.0625, "kernel": 0.25, "scale": 0.0625}
    lasso = {"gradient": {"l1": 0.0625}, "groups": [{"name": "stiff", "tensors": ["kernel"], "l1": 0.25}]}

    def case(
        name: str, source: str, optimizer: Mapping[str, Any], overrides: Mapping[int, list[dict[str, Any]]],
        expected: Runner, framework: Runner, changes: Changes, fields: Mapping[str, Any] | None = None,
        given: list[Nested] = EVERYWHERE, options: Mapping[str, Change] | None = None, note: str = "",
    ) -> Row:  # fmt: skip
        run = Run(given, changes=changes, options=options or {})
        return row("overrides", f"{source}_{name}", source, optimizer, expected, framework, fields, run=run,
                   overrides=overrides, note=note)  # fmt: skip

    rates = {
        2: on(lr=0.0625) | own(slow, {"lr": 0.015625}),
        5: own(slow, {"lr": 0.03125}),
        7: on(lr=0.0625) | own(slow, {"lr": 0.125}),
        8: {"kernel": {"lr": 0.125}},
    }
    betas: Changes = {
        2: on(beta1=0.5),
        3: on(beta1=0.25, beta2=0.75),
        6: on(lr=0.0625, epsilon=0.0625),
        7: {"kernel": {"beta2": 0.5, "lr": 0.03125}},
    }
    stated = {
        2: [override("beta1", 0.5)],
        3: [override("beta1", 0.25), override("beta2", 0.75)],
        6: [override("learning_rate", 0.0625), override("epsilon", 0.0625)],
        7: [override("beta2", 0.5, "stiff"), override("learning_rate", 0.03125, "stiff")],
    }
    in_torch: Changes = {
        2: on(betas=(0.5, 0.95)),
        3: on(betas=(0.25, 0.75)),
        6: on(lr=0.0625, eps=0.0625),
        7: {"kernel": {"betas": (0.8, 0.5), "lr": 0.03125}},
    }
    of_all = {call: stated[call] for call in (2, 3, 6)}
    momenta = {
        2: on(mu=0.5),
        4: on(mu=0.25, lr=0.0625),
        6: on(dampening=0.5),
    }
    decays = {2: on(decay=1.0), 5: {"kernel": {"decay": 0.25}}}
    decays_in_torch = {2: on(weight_decay=1.0), 5: {"kernel": {"weight_decay": 0.25}}}
    kernel_apart = {"groups": [{"name": "stiff", "tensors": ["kernel"]}]}

    def penalties(name: str) -> dict[int, Any]:
        return {2: on(**{name: 0.5}), 5: {"kernel": {name: 0.125}}, 6: own(slow, {name: 0.375})}

    def of_penalties(name: str) -> dict[int, list[dict[str, Any]]]:
        return {2: [override(name, 0.5)], 5: [override(name, 0.125, "stiff")], 6: [override(name, 0.375, "")]}

    def keras_changes(call: int) -> dict[str, Any]:
        names = {"lr": "learning_rate"}
        return underscore({names.get(name, name): x for name, x in betas[call]["bias"].items()})

    def optax_changes(call: int) -> dict[str, Any]:
        names = {"lr": "learning_rate", "beta1": "b1", "beta2": "b2", "epsilon": "eps"}
        return {names[name]: x for name, x in betas[call]["bias"].items()}

    def optax_adam(learning_rate: float, **change: float) -> Any:
        return optax.adam(learning_rate, **{**OPTAX_KNOBS, **change})

    def decay_and_step(learning_rate: float, decay: float = 0.5) -> Any:
        return optax.chain(optax.add_decayed_weights(decay), optax.sgd(learning_rate))

    return [
        case("rate", "torch", spec("TORCH", "sgd"),
             {2: [override("learning_rate", 0.0625)], 5: [override("learning_rate", 0.125, "slow")],
              7: [override("learning_rate", 0.0625), override("learning_rate", 0.5, "slow")],
              8: [override("learning_rate", 0.125, "")]},
             count(oracle.sgd, changes=rates, factors=own(slow, 0.25)), on_torch(o.SGD), rates,
             grouped, options=own(slow, {"factor": 0.25}),
             note="a rate takes the schedule's place; the group's factor multiplies it"),
        case("momentum", "torch", spec("TORCH", "momentum", momentum=0.8, dampening=0.25),
             {2: [override("momentum", 0.5)],
              4: [override("momentum", 0.25), override("learning_rate", 0.0625)],
              6: [override("dampening", 0.5)]},
             count(oracle.heavy_ball, {"mu": 0.8, "dampening": 0.25}, changes=momenta),
             on_torch(o.SGD, momentum=0.8, dampening=0.25),
             {2: on(momentum=0.5), 4: on(momentum=0.25, lr=0.0625), 6: on(dampening=0.5)}),
        case("rmsprop", "torch", spec("TORCH", "rmsprop", **rho), {3: [override("rho", 0.5)]},
             count(oracle.rmsprop, rho, changes={3: on(rho=0.5)}),
             on_torch(o.RMSprop, alpha=0.8, eps=EPSILON), {3: on(alpha=0.5)}),
        case("adam", "torch", spec("TORCH", "adam", **KNOBS), stated,
             count(oracle.adam, KNOBS, changes=betas), on_torch(o.Adam, **TORCH_KNOBS), in_torch,
             kernel_apart),
        case("adam_left_out", "torch", spec("TORCH", "adam", **KNOBS), stated,
             count(oracle.adam, KNOBS, changes=betas, by_tensor=True), on_torch(o.Adam, **TORCH_KNOBS),
             in_torch, kernel_apart, given=gradients()),
        case("adagrad_left_out", "torch", spec("TORCH", "adagrad", epsilon=EPSILON),
             {5: [override("learning_rate_decay", 0.5)]},
             count(oracle.adagrad, {"epsilon": EPSILON, "rate_decay": 0.0}, by_tensor=True,
                     changes={5: on(rate_decay=0.5)}),
             on_torch(o.Adagrad, eps=EPSILON), {5: on(lr_decay=0.5)}, given=gradients(),
             note="the steps of each tensor count although the rate does not decay before"),
        case("dampening_left_out", "torch", spec("TORCH", "momentum", momentum=0.8),
             {1: [override("dampening", 0.5)]},
             count(oracle.heavy_ball, {"mu": 0.8}, by_tensor=True, changes={1: on(dampening=0.5)}),
             on_torch(o.SGD, momentum=0.8), {1: on(dampening=0.5)}, given=gradients(),
             note="a first gradient of the second call is not dampened"),
        case("nadam", "torch", spec("TORCH", "nadam", momentum_decay=0.5, **KNOBS), of_all,
             count(oracle.nadam, {"psi": 0.5, **KNOBS}, changes={call: betas[call] for call in of_all}),
             on_torch(o.NAdam, momentum_decay=0.5, **TORCH_KNOBS), {call: in_torch[call] for call in of_all},
             note="later products of momenta hold the changed ones"),
        case("adamw", "torch", spec("TORCH", "adamw", weight_decay=0.5, **KNOBS),
             {2: [override("weight_decay", 1.0)], 5: [override("weight_decay", 0.25, "stiff")]},
             count(oracle.adam, {"decay": 0.5, **KNOBS}, changes=decays),
             on_torch(o.AdamW, weight_decay=0.5, **TORCH_KNOBS), decays_in_torch, kernel_apart),
        case("l1", "torch", spec("TORCH", "sgd"), of_penalties("l1"),
             count(oracle.sgd, own={n: {"l1": x} for n, x in plain.items()}, changes=penalties("l1")),
             on_torch(o.SGD), penalties("l1"), lasso, options={n: {"l1": x} for n, x in plain.items()}),
        case("l2", "torch", spec("TORCH", "adam", **KNOBS), of_penalties("l2"),
             count(oracle.adam, KNOBS, own={n: {"l2": x} for n, x in plain.items()},
                     changes=penalties("l2")),
             on_torch(o.Adam, **TORCH_KNOBS), penalties("weight_decay"), stiff,
             options={n: {"weight_decay": x} for n, x in plain.items()}),
        case("adam", "keras", spec("KERAS", "adam", **KNOBS), of_all,
             count(oracle.fold_adam, KNOBS, changes={call: betas[call] for call in of_all}),
             on_keras(lambda rate: k.Adam(rate, **KERAS_KNOBS)),
             {call: on(**keras_changes(call)) for call in of_all}),
        case("adam", "optax", spec("OPTAX", "adam", **KNOBS), of_all,
             count(oracle.adam, KNOBS, changes={call: betas[call] for call in of_all}),
             on_optax(optax_adam), {call: on(**optax_changes(call)) for call in of_all}),
        case("decoupled_weight_decay", "optax", spec("OPTAX", "sgd"),
             {3: [override("decoupled_weight_decay", 1.0)]},
             count(oracle.sgd, {"decay": 0.5}, changes={3: on(decay=1.0)}), on_optax(decay_and_step),
             {3: on(decay=1.0)}, {"decoupled_weight_decay": 0.5}),
    ]  # fmt: skip


def everywhere(**change: Any) -> dict[str, Change]:
    """The same change for every tensor."""
    return dict.fromkeys(PARAMETERS, change)


def override(name: str, value: float, group: str | None = None) -> dict[str, Any]:
    """A HyperparameterOverride in JSON."""
    return {**({} if group is None else {"group": group}), "name": name, "value": value}


def rows() -> list[Row]:
    """Every case of steps that differ in what they give."""
    torch.set_default_dtype(torch.float64)
    return [*per_tensor_rows(), *per_session_rows(), *group_rows(), *override_rows()]
