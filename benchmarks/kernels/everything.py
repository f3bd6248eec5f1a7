"""All groups of kernels."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.kernels import gradient_dtypes, rules, whole_steps
from benchmarks.options import Options
from benchmarks.results import Finding


def run(options: Options) -> Iterator[Finding]:
    """All of them."""
    yield from rules.run(options)
    yield from whole_steps.run(options)
    yield from gradient_dtypes.run(options)
