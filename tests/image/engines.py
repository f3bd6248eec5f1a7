"""Container engines: how each runs an image, kills what it runs, and asks for its health."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

DATA = "/var/lib/optserve"
SECONDS = 120.0
"""Bound on a command of an engine."""

OWNER = 10001
"""Whom the image's server runs as."""


def output(*command: str) -> str:
    """What a command printed."""
    done = subprocess.run(command, check=True, timeout=SECONDS, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip()


class Engine(ABC):
    """Runs one image, on the host's network.

    Args:
        image: its name.
    """

    def __init__(self, image: str) -> None:
        self.image = image

    @property
    @abstractmethod
    def config(self) -> dict[str, Any]:
        """The image's configuration: ``User``, ``Entrypoint``, ``Healthcheck`` and so on."""

    @abstractmethod
    def container(self) -> contextlib.AbstractContextManager[Container]:
        """A container that is gone at the end of the block, and that nothing runs in yet."""

    @abstractmethod
    def volume(self) -> contextlib.AbstractContextManager[str]:
        """An empty volume, for as long as the block lasts."""


class Container(ABC):
    """A container of an image."""

    @abstractmethod
    def server(self, variables: Mapping[str, str], volume: str) -> list[str]:
        """The command that runs the image's entry point in the foreground."""

    @abstractmethod
    def beside(self, variables: Mapping[str, str], *command: str) -> list[str]:
        """The command that runs another in the container, beside the server."""

    @abstractmethod
    def send(self, running: subprocess.Popen[bytes], number: signal.Signals) -> None:
        """Sends the server that ``running`` runs a signal."""


def engine(name: str, image: str) -> Engine:
    """The engine of this name."""
    return Buildah(image) if name == "buildah" else Daemon(image, name)


def _environment(variables: Mapping[str, str]) -> list[str]:
    return [f"--env={name}={value}" for name, value in variables.items()]


class Daemon(Engine):
    """docker or podman."""

    def __init__(self, image: str, program: str) -> None:
        super().__init__(image)
        self.program = program

    @property
    def config(self) -> dict[str, Any]:
        (found,) = json.loads(output(self.program, "image", "inspect", self.image))
        # podman files the health check beside the configuration.
        beside = {"Healthcheck": found["Healthcheck"]} if "Healthcheck" in found else {}
        return {**found["Config"], **beside}

    @contextlib.contextmanager
    def container(self) -> Iterator[DaemonContainer]:
        name = f"optserve-test-{uuid.uuid4().hex[:12]}"
        try:
            yield DaemonContainer(self.program, self.image, name)
        finally:
            gone = [self.program, "rm", "--force", name]  # most are already
            subprocess.run(gone, timeout=SECONDS, capture_output=True, check=False)

    @contextlib.contextmanager
    def volume(self) -> Iterator[str]:
        name = output(self.program, "volume", "create")
        try:
            yield name
        finally:
            output(self.program, "volume", "rm", name)


class DaemonContainer(Container):
    """A container of docker or podman; its files but the volume's go with its server."""

    def __init__(self, program: str, image: str, name: str) -> None:
        self._program, self._image, self._name = program, image, name

    def server(self, variables: Mapping[str, str], volume: str) -> list[str]:
        mounted = ["--network=host", f"--volume={volume}:{DATA}"]
        own = ["--rm", f"--name={self._name}", *mounted, *_environment(variables), self._image]
        return [self._program, "run", *own]

    def beside(self, variables: Mapping[str, str], *command: str) -> list[str]:
        return [self._program, "exec", *_environment(variables), self._name, *command]

    def send(self, running: subprocess.Popen[bytes], number: signal.Signals) -> None:
        output(self._program, "kill", f"--signal={number.name}", self._name)


class Buildah(Engine):
    """buildah, which runs commands in containers without an engine."""

    @property
    def config(self) -> dict[str, Any]:
        found = json.loads(output("buildah", "inspect", "--type=image", self.image))
        config: dict[str, Any] = found["Docker"]["config"]
        return config

    @contextlib.contextmanager
    def container(self) -> Iterator[BuildahContainer]:
        name = output("buildah", "from", "--pull-never", self.image)
        try:
            yield BuildahContainer(name, self.config["Entrypoint"])
        finally:
            output("buildah", "rm", name)

    @contextlib.contextmanager
    def volume(self) -> Iterator[str]:
        with tempfile.TemporaryDirectory() as folder:
            # Volumes of docker and podman take the owner from the image; here it is a folder.
            os.chown(folder, OWNER, OWNER)
            yield folder


class BuildahContainer(Container):
    """A working container; several commands may run in it at once."""

    def __init__(self, name: str, entrypoint: list[str]) -> None:
        self._name, self._entrypoint = name, entrypoint

    def server(self, variables: Mapping[str, str], volume: str) -> list[str]:
        mounted = [f"--volume={volume}:{DATA}", *_environment(variables)]
        return ["buildah", "run", *mounted, self._name, "--", *self._entrypoint]

    def beside(self, variables: Mapping[str, str], *command: str) -> list[str]:
        return ["buildah", "run", *_environment(variables), self._name, "--", *command]

    def send(self, running: subprocess.Popen[bytes], number: signal.Signals) -> None:
        os.kill(_innermost(running.pid), number)


def _innermost(pid: int) -> int:
    """The last in a line of processes, of which each has one child: what buildah runs for us."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            parents[int(status.read_text().rpartition(")")[2].split()[1])] = int(status.parent.name)
    while pid in parents:
        pid = parents[pid]
    return pid
