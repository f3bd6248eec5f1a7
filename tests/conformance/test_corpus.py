"""The corpus is whole and well-formed: oneofs, registries and vector files name the same things."""

from __future__ import annotations

import numpy as np
import pytest

from optserve.v1 import initializer_spec_pb2, session_pb2
from optserve_server import initializers, optimizers
from optserve_server.hyperparameters import declarations
from tests.conformance import corpus, names
from tests.conformance.messages import SPECS, parse

INPUTS = {
    "optimizers": {"parameters", "gradients", "learning_rates"},
    "schedules": {"steps"},
    "losses": {"prediction", "target", "sample_weight"},
    "activations": {"input", "output_gradient", "slope"},
    "gradient": {"parameters", "gradients", "sparse_gradients", "overrides"},
    "layers": {"shape"},
    "metrics": {"values"},
}
EXPECTED = {
    "optimizers": {"parameters", "lookahead"},
    "schedules": {"values"},
    "losses": {"value", "per_example", "gradient"},
    "activations": {"output", "input_gradient", "slope_gradient"},
    "gradient": {"parameters", "average"},
    "layers": {"output_shape", "trainable", "non_trainable", "multiply_adds", "flops"},
    "metrics": {"learning_rates", "best_values", "waited", "cooldown", "stopped", "parameter"},
}
OPTIONAL = {
    "sample_weight",
    "slope",
    "slope_gradient",
    "learning_rates",
    "sparse_gradients",
    "overrides",
    "lookahead",
    "value",
    "average",
    "cooldown",
    "stopped",
    "parameter",
}


@pytest.mark.parametrize("family", corpus.FAMILIES)
def test_every_name_has_vectors(family: str) -> None:
    assert names.list_recorded(family) == names.list_required(family)


@pytest.mark.parametrize("family", names.REGISTRIES)
def test_oneof_and_registry_agree(family: str) -> None:
    assert sorted(names.oneof_names(SPECS[family].DESCRIPTOR)) == sorted(names.REGISTRIES[family])


def test_initializers_have_no_vectors_but_agree() -> None:
    named = names.oneof_names(initializer_spec_pb2.InitializerSpec.DESCRIPTOR)
    assert sorted(named) == sorted(initializers.REGISTRY)


@pytest.mark.parametrize("name", names.ON_METRICS)
def test_every_knob_of_what_listens_is_stated_somewhere(name: str) -> None:
    found = corpus.load(corpus.VECTORS / "metrics" / f"{name}.json").cases
    message = session_pb2.SessionSpec.DESCRIPTOR.fields_by_name[name].message_type
    declared = {field.name for field in message.fields}
    # A convention states the three that tell frameworks apart; there is one metric.
    by_convention = {"patience_rule", "cooldown_order", "restart_at_floor", "monitor"}
    assert {field for case in found for field in case.spec[name]} == declared - by_convention


def test_nothing_else_lies_among_the_vectors() -> None:
    assert sorted(path.name for path in corpus.VECTORS.iterdir()) == sorted(corpus.FAMILIES)
    files = [path for path in corpus.VECTORS.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json"}


@pytest.mark.parametrize("family", corpus.FAMILIES)
def test_files_say_what_they_are(family: str) -> None:
    for path in (corpus.VECTORS / family).iterdir():
        file = corpus.load(path)
        assert file.path == path
        found = [case.name for case in file.cases]
        assert found
        assert len(set(found)) == len(found)


@pytest.mark.parametrize("family", corpus.FAMILIES)
def test_cases_are_well_formed(family: str) -> None:
    for name, case in corpus.cases(family):
        assert case.source in corpus.SOURCES, name
        assert INPUTS[family] - OPTIONAL <= set(case.inputs) <= INPUTS[family], name
        assert EXPECTED[family] - OPTIONAL <= set(case.expected) <= EXPECTED[family], name
        assert set(case.tolerance) == {"float32", "float64"}, name
        assert case.tolerance == corpus.EXACT or case.note, f"{name}: a wider tolerance needs its reason"
        assert parse(family, case).ByteSize() > 0, name


@pytest.mark.parametrize("family", corpus.FAMILIES)
def test_arrays_are_exact_in_float32(family: str) -> None:
    """So that an error in float32 is the arithmetic's, not that of reading the input; rates are float64."""
    for name, case in corpus.cases(family):
        scalars = {"learning_rates", "overrides"}
        arrays = {key: value for key, value in case.inputs.items() if key not in scalars}
        values = np.array(corpus.numbers(arrays), np.float64)
        assert (values.astype(np.float32) == values).all(), name


@pytest.mark.parametrize("name", list(optimizers.REGISTRY))
def test_optimizer_trajectories_are_telling(name: str) -> None:
    """Twenty steps, both signs, and somewhere a changing rate unless the rule has none."""
    found = corpus.load(corpus.VECTORS / "optimizers" / f"{name}.json").cases
    for case in found:
        gradients = np.array(case.inputs["gradients"])
        assert len(gradients) >= 20
        assert gradients.min() < 0 < gradients.max()
    changing = [case for case in found if len(set(case.inputs.get("learning_rates", []))) > 2]
    assert changing or name == "rprop"


@pytest.mark.parametrize("name", list(optimizers.REGISTRY))
def test_every_hyperparameter_is_stated_somewhere(name: str) -> None:
    found = corpus.load(corpus.VECTORS / "optimizers" / f"{name}.json").cases
    stated = {field for case in found for field in case.spec[name]}
    # Rates are stated by the session's schedule; a form may be, or may come with the convention.
    declared = set(declarations(optimizers.REGISTRY[name])) - {"learning_rate"}
    conventional = {"form", "maximum", "momentum_form", "epsilon_placement", "bias_correction"}
    assert declared - conventional <= stated


def test_sparse_cases_are_telling() -> None:
    """Rows given twice, none, left out and taken up again, of both signs, by stated words and conventions."""
    found = corpus.load(corpus.VECTORS / "gradient" / "sparse.json").cases
    stated = {case.spec.get("gradient", {}).get("sparse") for case in found}
    assert stated == {None, "SPARSE_UPDATE_LAZY", "SPARSE_UPDATE_DENSE"}
    conventions = {
        case.spec["optimizer"]["convention"]
        for case in found
        if "sparse" not in case.spec.get("gradient", {})
    }
    assert conventions == {"CONVENTION_TORCH", "CONVENTION_KERAS", "CONVENTION_OPTAX"}
    assert {case.source for case in found} == {"torch", "keras", "optax"}
    for case in found:
        calls = [call["table"] for call in case.inputs["sparse_gradients"]]
        indices = [call["indices"] for call in calls]
        assert any(len(set(some)) < len(some) for some in indices)
        assert [] in indices
        assert {2 in some for some in indices} == {True, False}
        assert {5 in some for some in indices} == {False}
        values = np.array(corpus.numbers([call["values"] for call in calls]))
        assert values.min() < 0 < values.max()


def test_every_field_of_a_group_is_stated_somewhere() -> None:
    cases = [case for _, case in corpus.cases("gradient")]
    stated = {field for case in cases for group in case.spec.get("groups", []) for field in group}
    others = {"optimizer"}  # the family optimizers states those
    assert names.fields(session_pb2.ParameterGroup) - others <= stated


def test_step_counting_cases_are_telling() -> None:
    """Tensors start late, are left out and come again, by stated words and conventions."""
    found = corpus.load(corpus.VECTORS / "gradient" / "step_counting.json").cases
    stated = {case.spec.get("step_counting") for case in found}
    assert stated == {None, "STEP_COUNTING_PER_TENSOR", "STEP_COUNTING_PER_SESSION"}
    conventions = {case.spec["optimizer"]["convention"] for case in found if "step_counting" not in case.spec}
    assert conventions == {"CONVENTION_TORCH", "CONVENTION_KERAS", "CONVENTION_OPTAX"}
    assert {case.source for case in found} == {"torch", "keras", "optax"}
    for case in found:
        calls = [set(gradients) for gradients in case.inputs["gradients"]]
        assert all(calls)
        assert calls[0] < set(case.inputs["parameters"])
        for name in case.inputs["parameters"]:
            given = [name in call for call in calls]
            assert False in given[given.index(True) :]


def test_overrides_are_telling() -> None:
    """For every group, the default one and a named one, and steps behind them without any."""
    found = corpus.load(corpus.VECTORS / "gradient" / "overrides.json").cases
    assert {case.source for case in found} == {"torch", "keras", "optax"}
    overrides = [one for case in found for call in case.inputs["overrides"] for one in call]
    assert {one.get("group") for one in overrides} == {None, "", "slow", "stiff"}
    assert {"learning_rate", "decoupled_weight_decay", "l1", "l2"} < {one["name"] for one in overrides}
    for case in found:
        changed = [bool(call) for call in case.inputs["overrides"]]
        assert False in changed[changed.index(True) :]


FEDERATED = ("fed_avg_m", "fed_adagrad", "fed_adam", "fed_yogi")
"""Flower has these, and no framework but it; FedAvgM is PyTorch's momentum as well."""

OPTAX_ALONE = ("yogi", "adabelief", "adan", "adopt", "schedule_free_sgd", "schedule_free_adamw")

NOT_OFFERED = {
    **{(framework, name): "only optax has it" for framework in ("keras", "torch") for name in OPTAX_ALONE},
    **{(framework, "ftrl"): "only Keras has it" for framework in ("torch", "optax")},
    **{(source, name): "only Flower has it" for source in ("keras", "torch", "optax") for name in FEDERATED},
    ("keras", "radam"): "Keras has no RAdam",
    ("torch", "lion"): "torch has no Lion",
    ("keras", "rprop"): "Keras has no Rprop",
    ("keras", "lars"): "Keras has no LARS",
    ("torch", "lars"): "torch has no LARS",
    ("torch", "lamb"): "torch has no LAMB",
    ("keras", "prodigy"): "Keras has no Prodigy",
    ("torch", "prodigy"): "torch has no Prodigy",
    ("optax", "rprop"): "optax.rprop applies the update of the step before",
}


@pytest.mark.parametrize("framework", ["keras", "torch", "optax"])
@pytest.mark.parametrize("name", list(optimizers.REGISTRY))
def test_each_framework_proves_its_defaults(name: str, framework: str) -> None:
    """A case in which nothing but the convention is stated, and the rate where it has no default."""
    found = corpus.load(corpus.VECTORS / "optimizers" / f"{name}.json").cases
    proofs = [
        case
        for case in found
        if case.source == framework
        and case.spec["convention"] == f"CONVENTION_{framework.upper()}"
        and "learning_rates" not in case.inputs
        and set(case.spec[name]) <= ({"learning_rate"} if framework == "optax" else set())
    ]
    assert bool(proofs) is ((framework, name) not in NOT_OFFERED)


def test_every_optimizer_has_frameworks_as_sources() -> None:
    for file in corpus.load_family("optimizers"):
        sources = {case.source for case in file.cases}
        assert sources & {"keras", "torch", "optax", "flower"}


@pytest.mark.parametrize(
    ("name", "stated"),
    [("fed_adagrad", set()), ("fed_adam", {"bias_correction"}), ("fed_yogi", set())],
)
def test_flower_proves_its_defaults(name: str, stated: set[str]) -> None:
    """FedAvgM's momentum is 0 in Flower; FedAdam corrects nothing in the paper."""
    found = corpus.load(corpus.VECTORS / "optimizers" / f"{name}.json").cases
    assert any(
        case.source == "flower" and set(case.spec[name]) == stated and "learning_rates" not in case.inputs
        for case in found
    )
