"""The corpus, and how it is read and written; its schema is proto/optserve/conformance/v1/suite.proto.

A vector file is ``vectors/<family>/<name>.json``, where name is the field of the family's
oneof (for the family ``gradient``, the field of ``GradientSpec``, ``ClipSpec``,
``SessionSpec`` or ``StepOptions`` that it proves). It holds an object with

    family, name  as in the path
    cases         a list of objects, each with
        name        unique in its file
        source      who computed ``expected``: keras, torch, optax, flower, torchvision, whose
                    published formulas PyTorch ran, or lecture or paper, which are the float64 oracle
                    from the formula that the lecture or the algorithm's paper prints
        spec        the request, in protobuf's JSON mapping with field names as in the .proto
        inputs      see below
        expected    see below; float64, written so that reading returns the same bits
        tolerance   largest relative error: "float64" and "float32", by the type of the
                    values under test
        note        what a reader should know; left out if there is nothing

By family, with nested lists for arrays (all exact in float32):

    optimizers   spec: OptimizerSpec
                 inputs: parameters [n], gradients [steps][n], and learning_rates [steps], or
                 none if the spec's own rate holds
                 expected: parameters [steps][n] after each step; for look-ahead forms also
                 lookahead [steps][n], the point at which each gradient is taken
    schedules    spec: ScheduleSpec; inputs: steps [k]; expected: values [k]
    losses       spec: LossSpec; inputs: prediction, target, and optionally sample_weight;
                 expected: per_example, gradient, and value unless nothing is reduced
    activations  spec: ActivationSpec; inputs: input, output_gradient; expected: output,
                 input_gradient. Where the activation takes one, also inputs: slope, and
                 expected: slope_gradient
    gradient     spec: SessionSpec; inputs: parameters {name: array}, gradients
                 [calls]{name: array}, without the tensors that a call has no gradient for;
                 expected: parameters [calls]{name: array} after each call, and average, alike,
                 if the session has one
                 sparse also has inputs: sparse_gradients [calls]{name: {indices [k],
                 values [k, ...]}}, rows of tensors that the call's gradients leave out
                 overrides also has inputs: overrides [calls][k] of HyperparameterOverride, in
                 protobuf's JSON mapping
    layers       spec: LayerSpec; inputs: shape [rank] of one example
                 expected: output_shape [rank], and as whole numbers trainable and non_trainable
                 parameters, multiply_adds and flops of one example
    metrics      spec: SessionSpec with the field that the file is named for
                 inputs: values [k] of the metric val_loss, all reported until training ends
                 expected, after each report: best_values [k], 0 before the first, and
                 waited [k]; of reduce_on_plateau also cooldown [k] and learning_rates [k], those
                 of a step after the report; of early_stopping also stopped, 0 or 1, and the
                 parameter at the end, which a step before each report raised from 0 by 1

Learning rates are fed to a session by a piecewise-constant schedule.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).parent / "vectors"
FAMILIES = ("optimizers", "schedules", "losses", "activations", "gradient", "layers", "metrics")

ONE_OF_EACH = {
    "optimizers-momentum",
    "schedules-cosine",
    "losses-huber",
    "activations-softmax",
    "gradient-by_global_norm",
    "layers-lstm",
    "metrics-early_stopping",
}
"""A file of each family, for `make test`, in which one runner of three computes the whole corpus."""

SOURCES = ("keras", "torch", "optax", "flower", "torchvision", "lecture", "paper")

EXACT = {"float64": 1e-12, "float32": 1e-6}
"""The tolerance of cases whose numbers are all float64 or wider in every source."""

FRAMEWORK_FLOAT32 = {"float64": 1e-7, "float32": 1e-6}
"""The tolerance where the framework itself keeps a scalar in float32."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One recorded computation; the fields are those of the module's docstring."""

    name: str
    source: str
    spec: Mapping[str, Any]
    inputs: Mapping[str, Any]
    expected: Mapping[str, Any]
    tolerance: Mapping[str, float] = dataclasses.field(default_factory=lambda: dict(EXACT))
    note: str = ""


@dataclasses.dataclass(frozen=True)
class VectorFile:
    """The cases of one algorithm."""

    family: str
    name: str
    cases: tuple[Case, ...]

    @property
    def path(self) -> Path:
        """Where the file lies."""
        return VECTORS / self.family / f"{self.name}.json"


def load(path: Path) -> VectorFile:
    """Reads one vector file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    cases = tuple(Case(**case) for case in content["cases"])
    return VectorFile(content["family"], content["name"], cases)


def load_family(family: str) -> list[VectorFile]:
    """Reads all vector files of a family, by name."""
    return [load(path) for path in sorted((VECTORS / family).glob("*.json"))]


def files() -> dict[str, VectorFile]:
    """All vector files, by an identifier for test reports."""
    return {f"{family}-{file.name}": file for family in FAMILIES for file in load_family(family)}


def cases(family: str) -> list[tuple[str, Case]]:
    """All cases of a family, each with an identifier for test reports."""
    return [(f"{file.name}-{case.name}", case) for file in load_family(family) for case in file.cases]


def dump(file: VectorFile) -> str:
    """The text of a vector file: indented, but innermost lists on one line."""
    content = {"family": file.family, "name": file.name, "cases": [_plain(case) for case in file.cases]}
    text = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False)
    return re.sub(r"\[[^\[\]{}]*\]", _on_one_line, text) + "\n"


def _plain(case: Case) -> dict[str, Any]:
    plain = dataclasses.asdict(case)
    if not case.note:
        del plain["note"]
    return plain


def _on_one_line(match: re.Match[str]) -> str:
    return re.sub(r"\s*\n\s*", " ", match.group()).replace("[ ", "[").replace(" ]", "]")


def numbers(tree: Any) -> list[float]:
    """The numbers of nested lists and objects, in order."""
    if isinstance(tree, Mapping):
        return [number for key in sorted(tree) for number in numbers(tree[key])]
    if isinstance(tree, Sequence):
        return [number for item in tree for number in numbers(item)]
    return [tree]
