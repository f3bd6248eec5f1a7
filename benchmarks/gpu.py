"""Adam on a GPU against its memory and torch; a whole step against its bus.

``--dry-run`` runs the same text at a small size with the host in the GPU's place, and
says so in the group's name: such figures show that the harness works, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.devices import Device, Gpu, HostAsDevice
from benchmarks.kernels.ours import RATE, RULES, Kernel
from benchmarks.kernels.sessions import SessionStep
from benchmarks.options import Options
from benchmarks.results import Failure, Finding
from benchmarks.timing import Timed, Times, interleave, repeat
from optserve_server.arrays.backend_selection import gpu_answers

GROUP = "gpu"
KERNEL, TRIP = 10**9, 25 * 10**7
DRY = 100_000
TRAFFIC = 28
"""Bytes that Adam moves for each parameter: p, m and v both ways, and g."""


def run(options: Options) -> Iterator[Finding]:
    """GB/s of the kernel, milliseconds of a round trip."""
    if options.dry_run:
        device: Device = HostAsDevice()
        yield from _kernel(device, f"{GROUP}, dry run", DRY, options)
        yield from _round_trip(device, f"{GROUP}, dry run", DRY, options)
    elif gpu_answers():
        yield from _kernel(Gpu(), GROUP, KERNEL, options)
        yield from _round_trip(Gpu(), GROUP, TRIP, options)
    else:
        yield Failure(GROUP, "everything", KERNEL, "no GPU answers; --dry-run shows that the harness works")


def _kernel(device: Device, group: str, n: int, options: Options) -> Iterator[Finding]:
    """The fused kernel beside a copy, which is the fastest that memory can be moved."""
    start = np.zeros(n, np.float32)
    gradient = np.random.default_rng(0).standard_normal(n, np.float32)
    ours = f"{device.backend.name} Adam"
    calls: dict[str, Callable[[], object]] = {ours: Kernel(RULES["Adam"], device.backend, start, gradient)}
    source, target = device.zeros(n), device.zeros(n)
    calls["device copy"] = lambda: device.copy(source, target)
    bytes_moved = {ours: TRAFFIC * n, "device copy": 8 * n, "torch fused": TRAFFIC * n}
    try:
        calls["torch fused"] = _torch(device, start, gradient)
    except (ImportError, RuntimeError, AssertionError) as error:  # the last from a torch without CUDA
        yield Failure(group, "torch fused", n, str(error).splitlines()[0])
    timed = {name: _time_until_done(call, device) for name, call in calls.items()}
    times = interleave(timed, options.rounds, options.seconds)
    for name in calls:
        yield from times.rates(group, name, n, "GB/s", bytes_moved[name] / 1e9)
    # What each moves differs, so seconds are compared by the byte.
    by_byte = Times({name: [s / bytes_moved[name] for s in times.seconds[name]] for name in calls})
    for peer in calls:
        if peer != ours:
            yield from by_byte.rates(group, ours, n, "GB/s", 1e-9, peer)


def _torch(device: Device, start: np.ndarray, gradient: np.ndarray) -> Callable[[], object]:
    import torch

    parameter = torch.from_numpy(start).to(device.torch, copy=True).requires_grad_()
    parameter.grad = torch.from_numpy(gradient).to(device.torch, copy=True)
    step: Callable[[], object] = torch.optim.Adam([parameter], lr=RATE, fused=True).step
    return step


def _round_trip(device: Device, group: str, n: int, options: Options) -> Iterator[Finding]:
    """A session's step and the reading of its parameters, beside the bare transfers of both."""
    gradient = np.random.default_rng(0).standard_normal(n, np.float32)
    session = SessionStep(RULES["Adam"], [np.zeros(n, np.float32)], [gradient], device.backend)
    there, here = device.zeros(n), device.allocate_pinned(n)

    def trip() -> None:
        session()
        session.read()

    def bus() -> None:
        device.up(here, there)
        device.down(there, here)

    timed = {"round trip": _time_until_done(trip, device), "bus limit": _time_until_done(bus, device)}
    times = interleave(timed, options.rounds, options.seconds)
    yield from times.durations(group, "round trip", n, "bus limit")
    yield from times.durations(group, "bus limit", n)


def _time_until_done(call: Callable[[], object], device: Device) -> Timed:
    """Times calls until the device is done with them."""

    def last() -> None:
        call()
        device.wait()

    def time_calls(repeats: int) -> float:
        device.wait()
        return repeat(call)(repeats - 1) + repeat(last)(1)

    return time_calls
