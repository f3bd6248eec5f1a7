"""What a session should be: the same changes, made once each in this process, with no disk at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from optserve.v1 import session_service_pb2 as pb
from optserve.v1.session_pb2 import SessionSpec
from optserve_server.arrays.numpy_blocked import NumpyBackend
from optserve_server.durability.change_records import RestoreChange
from optserve_server.durability.snapshot_codec import encode_snapshot
from optserve_server.sessions.session import Session
from optserve_server.sessions.store import Limits, ParameterInit, Store
from optserve_server.spec.session_spec import DurabilityMode
from optserve_server.state.staging import NamedArray, Staging
from optserve_server.state.step_result import StepOptions
from optserve_server.storage import snapshot
from optserve_server.wire.messages.steps import result_to
from optserve_server.wire.specifications.spec_text import SPEC_TEXT
from optserve_server.wire.specifications.specs import session_spec_from

Arrays = Mapping[str, npt.NDArray[Any]]

_FACTS = ("step", "accumulated", "skipped", "layout", "pending", "clocks", "plateau", "stopping")


class Model:
    """A session without a server.

    Args:
        values: its parameters.
        spec: its specification, as a client states it.
    """

    def __init__(self, values: Arrays, spec: SessionSpec) -> None:
        limits = Limits(durability=DurabilityMode.JOURNAL, durable=True)
        inits = [ParameterInit(name, a.dtype, a.shape, a) for name, a in values.items()]
        self._session = Store(NumpyBackend(), limits).create("", session_spec_from(spec), inits)

    @property
    def step_number(self) -> int:
        return self._session.step

    def step(self, gradient: Arrays, **options: Any) -> pb.StepResult:
        """Takes a step; the result is what a server that journals would say."""
        result = result_to(self._session.take_step(self._stage(gradient), StepOptions(**options)))
        result.durable_step = result.step
        return result

    def push(self, values: Arrays, reset_state: bool) -> None:
        self._session.assign_parameters(self._stage(values), reset_state=reset_state)

    def update(self, spec: SessionSpec) -> None:
        self._session.update_spec(session_spec_from(spec))

    def report(self, values: Mapping[str, float]) -> None:
        self._session.report_metrics(values)

    def snapshot(self) -> bytes:
        """A snapshot."""
        frozen = encode_snapshot(self._session, SPEC_TEXT)
        pieces: list[bytes] = []
        snapshot.write_snapshot(lambda piece: pieces.append(bytes(piece)), frozen.tensors, frozen.metadata)
        return b"".join(pieces)

    def restore(self, saved: bytes, weights_only: bool) -> None:
        contents = snapshot.read_snapshot(memoryview(saved))
        if weights_only:
            names = [entry.name for entry in self._session.layout.entries]
            self._session.assign_parameters(
                self._stage({name: contents.tensors[f"parameter/{name}"] for name in names})
            )
        else:
            RestoreChange(contents, SPEC_TEXT).prepare(self._session).commit()

    def check(self, exported: bytes) -> None:
        """Fails unless what a server has sent is this session, bit for bit.

        Raises:
            AssertionError: saying where they differ.
        """
        expected, found = (snapshot.read_snapshot(memoryview(data)) for data in (self.snapshot(), exported))
        assert found.tensors.keys() == expected.tensors.keys()
        facts = [json.loads(contents.metadata["optserve"]) for contents in (expected, found)]
        for name in _FACTS:
            assert facts[0][name] == facts[1][name], name
        assert found.metadata["spec"] == expected.metadata["spec"]
        for name, array in expected.tensors.items():
            if name.startswith("history/"):
                continue  # it has the times of the steps
            assert found.tensors[name].tobytes() == array.tobytes(), f"{name} differs"

    def _stage(self, arrays: Arrays) -> Staging:
        return self._session.stage_arrays([NamedArray(name, a) for name, a in arrays.items()])

    @property
    def session(self) -> Session:
        return self._session


def draw(rng: np.random.Generator, like: Arrays) -> dict[str, npt.NDArray[Any]]:
    """Random arrays of those shapes."""
    return {name: rng.standard_normal(a.shape).astype(a.dtype) for name, a in like.items()}
