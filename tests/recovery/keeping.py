"""A durability manager and its sessions in this process, on a disk that tests choose."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf.message import Message

from optserve_server.arrays.backend import Backend
from optserve_server.arrays.numpy_blocked import NumpyBackend
from optserve_server.durability.change_records import RequestedChange
from optserve_server.durability.durability_manager import DurabilityManager, SnapshotPolicy
from optserve_server.durability.recovery import Recovery
from optserve_server.durability.snapshot_codec import encode_snapshot
from optserve_server.hyperparameters import Chosen
from optserve_server.optimizers.adam import Adam
from optserve_server.rpc.execution.execution import Execution
from optserve_server.rpc.execution.idempotency import commit_change
from optserve_server.sessions.namespaces import Namespaces
from optserve_server.sessions.session import Session
from optserve_server.sessions.store import Limits, ParameterInit
from optserve_server.spec.session_spec import DurabilityMode, DurabilitySpec, SessionSpec
from optserve_server.state.session_change import ChangeKind, Request
from optserve_server.state.staging import NamedArray
from optserve_server.state.step_result import StepOptions, StepResult
from optserve_server.stepping.step import Step
from optserve_server.storage import snapshot
from optserve_server.storage.files import Disk
from optserve_server.wire.messages.answers import encode_answer
from optserve_server.wire.specifications.spec_text import SPEC_TEXT

Arrays = Mapping[str, npt.NDArray[Any]]
BACKEND = NumpyBackend()
ADAM = SessionSpec(optimizer=Chosen(Adam()))
VALUES: Arrays = {"w": np.linspace(-1, 1, 50, dtype=np.float32), "b": np.linspace(0, 1, 3)}


@dataclass
class House:
    """A data directory in use."""

    namespaces: Namespaces
    durability_manager: DurabilityManager
    execution: Execution

    def create(
        self,
        session_id: str,
        namespace: str = "",
        mode: DurabilityMode | None = None,
        values: Arrays = VALUES,
        request: Request = Request(),
        spec: SessionSpec = ADAM,
    ) -> Session:
        durability = None if mode is None else DurabilitySpec(mode=mode, snapshot_seconds=1e6)
        spec = replace(spec, durability=durability)
        inits = [ParameterInit(name, a.dtype, a.shape, a) for name, a in values.items()]

        home = self.namespaces[namespace]

        def keep(session: Session) -> None:
            self.durability_manager.create_session_files(home, ChangeKind.CREATE, request, session)

        return home.store.create(session_id, spec, inits, 0, keep)

    async def step(self, session: Session, seed: int, **options: Any) -> StepResult:
        staging = session.stage_arrays([NamedArray(name, a) for name, a in gradient(seed).items()])
        step = Step(session, staging, StepOptions(**options))
        return await self.execution.commit(session, step, Step.commit)

    async def change(self, session: Session, change: RequestedChange) -> Message:
        """Makes a change that is no step; returns its answer."""
        return await commit_change(self.execution, session, change)


TIME = 1e9
"""Unix time of every change, so that two runs make the same history."""


def gradient(seed: int) -> dict[str, npt.NDArray[Any]]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(a.shape).astype(a.dtype) for name, a in VALUES.items()}


@asynccontextmanager
async def house(
    root: Path, disk: Disk | None = None, policy: SnapshotPolicy | None = None, backend: Backend = BACKEND
) -> AsyncIterator[House]:
    """Recovers what is there, and ends as a server does after SIGTERM."""
    namespaces = Namespaces(backend, Limits(durability=DurabilityMode.JOURNAL, durable=True))
    durability_manager = Recovery(root, namespaces, SPEC_TEXT, encode_answer, policy, disk).run()
    execution = Execution(2, durability_manager, lambda: TIME)
    try:
        yield House(namespaces, durability_manager, execution)
        await durability_manager.close(10)
    finally:
        execution.close()


def bits(session: Session) -> dict[str, bytes]:
    """All of a session's arrays."""
    return {tensor.name: tensor.get().tobytes() for tensor in encode_snapshot(session, SPEC_TEXT).tensors}


def run(work: Any) -> Any:
    """Runs a coroutine, for a while at most."""
    return asyncio.run(asyncio.wait_for(work, 60))


def snapshot_bytes(session: Session) -> bytes:
    """A snapshot of a session."""
    frozen = encode_snapshot(session, SPEC_TEXT)
    pieces: list[bytes] = []
    snapshot.write_snapshot(lambda piece: pieces.append(bytes(piece)), frozen.tensors, frozen.metadata)
    return b"".join(pieces)
