"""A training step of PyTorch with the remote optimizer, beside torch's own and that of an offloader.

Each contender is a process, stopped while others have their turn. All of them train the same network, once
with 1 and once with 2 threads of OpenMP; the better of both counts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from benchmarks.contenders.remote import ContenderError, Remote, contender
from benchmarks.end_to_end import agree
from benchmarks.options import Options
from benchmarks.results import Failure, Finding
from benchmarks.timing import Times, interleave

WHOLE, ALONE = "PyTorch, training step", "PyTorch, optimizer alone"
OURS, FUSED = "optserve, shared memory", "torch fused"
SIZES = (1_000_000, 10_000_000)
CONTENDERS = {FUSED: "fused", "torch foreach": "foreach", "DeepSpeed CPUAdam": "deepspeed", OURS: "remote"}
"""Values of the contender's ``--optimizer``; the first one's parameters are the reference."""

HEAVY = ("DeepSpeed CPUAdam",)
TOLERANCE = 1e-3
"""Of the parameters after three steps: each Adam divides by a root near zero in another order."""


def run(options: Options) -> Iterator[Finding]:
    """Steps per second of the whole training step, and of the optimizer alone."""
    for group, flags in ((WHOLE, ()), (ALONE, ("--alone",))):
        for n in options.sizes_of(SIZES):
            yield from _measure(group, n, flags, options)


def _measure(group: str, n: int, flags: tuple[str, ...], options: Options) -> Iterator[Finding]:
    timed: dict[str, Remote] = {}
    variants: dict[str, list[str]] = {}
    expected = None
    with contextlib.ExitStack() as stack:
        for name, optimizer in CONTENDERS.items():
            if name in HEAVY and not options.heavy:
                continue
            for threads in ("1", "2"):
                label = f"{name}, OMP {threads}"
                words = (n, f"--optimizer={optimizer}", *flags)
                try:
                    running = contender("torch_training", *words, OMP_NUM_THREADS=threads)
                    remote = stack.enter_context(running)
                    values = remote.check()
                    expected = values if expected is None else expected
                    agree(values, expected, TOLERANCE)
                except (ContenderError, AssertionError) as error:
                    yield Failure(group, label, n, str(error))
                    continue
                remote.rest()
                timed[label] = remote
                variants.setdefault(name, []).append(label)
        times = interleave({k: r.time_alone for k, r in timed.items()}, options.rounds, options.seconds)
    for label in timed:
        yield from times.rates(group, label, n, "steps/s", 1)
    best = Times({name: times.seconds[times.better(labels)] for name, labels in variants.items()})
    for peer in [name for name in best.seconds if name != OURS and OURS in best.seconds]:
        yield from best.rates(group, OURS, n, "steps/s", 1, peer)
