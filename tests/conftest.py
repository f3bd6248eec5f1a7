"""What holds for every test: nothing is skipped in CI, and GPU tests need a GPU."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import random
import socket
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

# Processes of a run, and runs, share what Numba compiles: test processes and the servers that they start.
os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(__file__).parents[1] / "build" / "kernel-cache"))

if TYPE_CHECKING:
    from tests.support.server import RunningServer

# How long examples take to make or to run is the machine's affair, the first ones' above all.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

IN_CI = os.environ.get("CI", "").lower() in {"1", "true", "yes"}


@pytest.fixture(scope="session")
def server() -> Iterator[RunningServer]:
    """One server for all tests that do not end it."""
    from tests.support.server import running_server  # not where only this file is read

    with running_server("numpy") as running:
        yield running


def gpu_count() -> int:
    """How many GPUs the CUDA driver sees; 0 without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects tests marked ``gpu`` on a machine without a GPU; the count shows them."""
    wanting = [item for item in items if item.get_closest_marker("gpu")]
    if not wanting or gpu_count() > 0:
        return
    items[:] = [item for item in items if not item.get_closest_marker("gpu")]
    config.hook.pytest_deselected(items=wanting)


def pytest_collection_finish() -> None:
    """Leaves what was imported and collected out of garbage collections, of which tests ask for many."""
    gc.collect()
    gc.freeze()


def fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turns a skip into a failure in CI; an expected failure is no skip."""
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where nothing may be: {report.longrepr}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Looks at every test."""
    report = yield
    fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Looks at every module."""
    report = yield
    fail_if_skipped(report)
    return report


@pytest.fixture
def unused_port() -> int:
    """A free port that the system gives to no connection, so that it stays free while a server restarts."""
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    candidates = [*range(10_000, first), *range(last + 1, 1 << 16)]
    for port in random.SystemRandom().sample(candidates, 100):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise RuntimeError("100 ports were taken")
