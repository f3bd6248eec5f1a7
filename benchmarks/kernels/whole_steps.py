"""What a training step does with a model: many small tensors; clipping, AdamW and an average."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.kernels.ours import RULES, Array
from benchmarks.kernels.peers import Torch, TorchClipAverage
from benchmarks.kernels.rules import check
from benchmarks.kernels.sessions import SessionStep
from benchmarks.options import Options
from benchmarks.results import Finding
from benchmarks.timing import interleave, repeat
from optserve_server.spec.session_spec import ClipByGlobalNorm, GradientSpec, WeightAverageSpec

TENSORS = 1000
ONE_PASS = "one pass, measured as it came"
SIZES = (1_000_000, 25_000_000)
CLIPPED = GradientSpec(clip=ClipByGlobalNorm(max_norm=1.0, epsilon=1e-6))
AVERAGED = WeightAverageSpec(decay=0.99)


def run(options: Options) -> Iterator[Finding]:
    """Both."""
    own, gradients = _arrays(TENSORS * 1000, TENSORS)
    ours = SessionStep(RULES["Adam"], own, gradients)
    yield from _beside("kernel: 1000 tensors", "torch fused", ours, Torch, "Adam", own, gradients, options)
    for n in options.sizes_of(SIZES):
        own, gradients = _arrays(n, 25)
        ours = SessionStep(RULES["AdamW"], own, gradients, gradient=CLIPPED, weight_average=AVERAGED)
        yield from _beside(
            "kernel: clip, AdamW, EMA", "torch, three calls", ours, TorchClipAverage, "AdamW", own, gradients,
            options,
        )  # fmt: skip


def _beside(
    group: str,
    label: str,
    ours: SessionStep,
    peer: Callable[..., Torch],
    rule: str,
    own: list[Array],
    gradients: list[Array],
    options: Options,
) -> Iterator[Finding]:
    contenders: dict[str, Any] = {
        "session step": ours,
        f"{label}, 1 thread": peer(rule, 1, own, gradients),
        f"{label}, 2 threads": peer(rule, 2, own, gradients),
    }
    check(contenders)
    timed = {name: repeat(call) for name, call in contenders.items()} | {ONE_PASS: ours.once_arrived}
    times = interleave(timed, options.rounds, options.seconds / 2)
    n = sum(array.size for array in own)
    variants = list(contenders)[1:]
    for name in ("session step", ONE_PASS):
        yield from times.rates(group, name, n, "Gelem/s", n / 1e9, times.better(variants), label)
    for name in variants:
        yield from times.rates(group, name, n, "Gelem/s", n / 1e9)


def _arrays(n: int, tensors: int) -> tuple[list[Array], list[Array]]:
    """Parameters and gradients of ``n`` elements in all."""
    draws = [
        np.random.default_rng(seed).standard_normal((tensors, n // tensors), np.float32) for seed in (0, 1)
    ]
    return list(draws[0]), list(draws[1])
