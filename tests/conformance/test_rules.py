"""Every optimizer vector on the rule itself, written once and run on plain arrays."""

from __future__ import annotations

import pytest

from optserve_server import optimizers
from tests.conformance import corpus, trajectories
from tests.conformance.corpus import VectorFile
from tests.conformance.specs import resolve
from tests.conformance.table import Column, fill
from tests.conformance.tasks import Answer, Task

FILES = {file.name: file for file in corpus.load_family("optimizers")}


def on_plain_arrays(task: Task) -> Answer:
    rule = resolve(optimizers.REGISTRY, task.case.spec)
    return trajectories.follow(rule, task.case, task.dtype, trajectories.plainly(rule))


@pytest.mark.parametrize("file", FILES.values(), ids=FILES.keys())
def test_rule_on_plain_arrays(file: VectorFile) -> None:
    assert fill(Column("rule", on_plain_arrays), file).gaps == []
