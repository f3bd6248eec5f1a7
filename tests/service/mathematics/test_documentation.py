"""The worked example of docs/adding_an_optimizer.md is a rule that works."""

from __future__ import annotations

import inspect
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optserve_server.arrays.numpy_blocked import NumpyBackend
from optserve_server.optimizers.base import ElementwiseRule
from optserve_server.optimizers.lion import Lion
from tests.service.mathematics.evaluation import run, run_program

PAGE = Path(__file__).parents[3] / "docs" / "adding_an_optimizer.md"
RATES = [0.1, 0.01, 0.01]
GRADIENTS = [np.array([0.1, -2.0]), np.array([-0.2, 0.0]), np.array([-3.0, 0.5])]


@pytest.fixture
def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_the_page_shows_the_module_itself(blocks: list[str]) -> None:
    assert blocks[0] == Path(inspect.getfile(Lion)).read_text()


@pytest.fixture
def rule(blocks: list[str]) -> Iterator[ElementwiseRule]:
    module = types.ModuleType("documented_rule")
    sys.modules[module.__name__] = module  # dataclasses and annotations look there
    exec(compile(blocks[0], str(PAGE), "exec"), module.__dict__)
    yield module.__dict__["Lion"]()
    del sys.modules[module.__name__]


def test_the_rule_gives_what_its_oracle_gives(rule: ElementwiseRule, blocks: list[str]) -> None:
    oracle: dict[str, Any] = {"Steps": list, "sign": np.sign}
    exec(compile(blocks[1], str(PAGE), "exec"), oracle)
    states = run(rule, np.ones(2), GRADIENTS, RATES)
    for i in range(2):
        steps = [(g[i], rate) for g, rate in zip(GRADIENTS, RATES, strict=True)]
        expected = oracle["lion"](1.0, steps, beta1=0.9, beta2=0.99)
        assert [arrays["p"][i] for arrays in states] == pytest.approx(expected, rel=1e-14)
    assert states[-1]["p"] == pytest.approx([0.9 + 0.01 + 0.01, 1.1 + 0.01 - 0.01])


def test_the_rule_can_be_traced(rule: ElementwiseRule) -> None:
    traced = run_program(NumpyBackend(threads=1), rule, np.ones(2), GRADIENTS, RATES)
    assert np.array_equal(traced["p"], run(rule, np.ones(2), GRADIENTS, RATES)[-1]["p"])
