"""A real disk with a limited number of writes a second, as volumes of clouds have.

The limit is that of a control group of the block layer, version 1 or 2, and counts for the
processes that are put in: a write beyond it waits for its turn.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MOUNTS, DEVICES = Path("/proc/mounts"), Path("/sys/dev/block")
REMOVALS, PAUSE = 50, 0.1
"""Attempts to remove a group, and the seconds between two of them."""


class LimitError(Exception):
    """There can be no limit here; the message says why."""


@dataclass(frozen=True)
class Controller:
    """The block layer's control groups, and the form of their limits.

    Attributes:
        root: the folder of the outermost group.
        file: the file of a group that takes its limits.
        limit: what is written there of a ``{device}`` and its ``{writes}`` a second.
        enabled: controllers that the outermost group has to delegate.
    """

    root: Path
    file: str
    limit: str
    enabled: tuple[str, ...] = ()


@dataclass(frozen=True)
class LimitedDisk:
    """A disk, and the control group whose writes to it are limited.

    Attributes:
        device: the disk's numbers, ``major:minor``.
        group: the group's folder.
        controller: how its limit is set.
    """

    device: str
    group: Path
    controller: Controller

    def allow(self, writes: int) -> None:
        """Sets the writes a second of all processes of the group together."""
        _tell(
            self.group / self.controller.file,
            self.controller.limit.format(device=self.device, writes=writes),
        )

    def admit(self, pid: int) -> None:
        """Adds a process to the group, with all of its threads."""
        _tell(self.group / "cgroup.procs", str(pid))


@contextlib.contextmanager
def limit_disk(folder: Path) -> Iterator[LimitedDisk]:
    """Makes a control group for the disk of a folder, without a limit at first, until the block ends.

    Args:
        folder: any that lies on the disk.

    Raises:
        LimitError: it may not be made here, or there is no such disk; or it could not be removed.
    """
    device, its = disk_of(folder), controller()
    with _delegate(its), _group(its.root) as group:
        yield LimitedDisk(device, group, its)


def disk_of(folder: Path, devices: Path = DEVICES) -> str:
    """The numbers of the disk under a folder; limits are a whole disk's and not a partition's.

    Args:
        folder: any.
        devices: where the kernel lists devices by their numbers.

    Raises:
        LimitError: none is: files are in memory, on a network, or on layers without one device.
    """
    number = folder.stat().st_dev
    device = devices / f"{os.major(number)}:{os.minor(number)}"
    if not device.exists():
        raise LimitError(f"no disk lies under {folder}")
    device = device.resolve()
    disk = device.parent if (device / "partition").exists() else device
    return (disk / "dev").read_text().strip()


def controller(mounts: Path = MOUNTS) -> Controller:
    """The block layer's controller.

    Args:
        mounts: the list of what is mounted where.

    Raises:
        LimitError: none is mounted.
    """
    for line in mounts.read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        root = Path(where)
        if kind == "cgroup" and "blkio" in options.split(","):
            return Controller(root, "blkio.throttle.write_iops_device", "{device} {writes}")
        if kind == "cgroup2" and "io" in (root / "cgroup.controllers").read_text().split():
            # What waits in the page cache is counted for its writer's group only where memory is, too.
            return Controller(root, "io.max", "{device} wiops={writes}", ("io", "memory"))
    raise LimitError("no control groups of the block layer are mounted")


@contextlib.contextmanager
def _delegate(its: Controller) -> Iterator[None]:
    """Delegates the needed controllers from the outermost group until the block ends."""
    path = its.root / "cgroup.subtree_control"
    missing = [name for name in its.enabled if name not in path.read_text().split()]
    if missing:
        _tell(path, " ".join(f"+{name}" for name in missing))
    try:
        yield
    finally:
        if missing:
            with contextlib.suppress(LimitError):  # others have come to need it since
                _tell(path, " ".join(f"-{name}" for name in missing))


@contextlib.contextmanager
def _group(root: Path) -> Iterator[Path]:
    """A group of its own beneath the outermost one."""
    group = root / f"optserve-bench-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        raise LimitError(f"no control group can be made in {root}: {error.strerror}") from None
    try:
        yield group
    finally:
        _remove(group)


def _remove(group: Path) -> None:
    """Removes a group; what still runs in it goes to the one around it."""
    for _ in range(REMOVALS):
        with contextlib.suppress(OSError):
            group.rmdir()
            return
        for pid in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(LimitError):  # it has ended since
                _tell(group.parent / "cgroup.procs", pid)
        time.sleep(PAUSE)
    raise LimitError(f"{group} could not be removed")


def _tell(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise LimitError(f"{path} does not take {text!r}: {error.strerror}") from None
