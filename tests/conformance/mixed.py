"""Mixed sessions: workers of several clients train one session, in turn and synchronously.

The parameters have to be, bit for bit, those of as many Python workers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from clients.python.conformance.stubs import driver_pb2 as pb
from optserve.v1.session_pb2 import SessionSpec
from optserve.v1.session_service_pb2 import ParameterInit
from tests.conformance.calls import tensors
from tests.conformance.drivers import Driver, running_driver
from tests.conformance.tensors import array_of, tensor
from tests.conformance.training import Tensors
from tests.conformance.transcript import INITIAL, gradients_at, spec

TURNS = 5
"""How often each worker has its turn."""

STEPS = 20
"""Steps of a synchronous session, to each of which all workers contribute."""

LEASE_SECONDS = 120.0


def train_in_turn(commands: Sequence[Sequence[str]], address: str) -> Tensors:
    """One worker after the other takes two steps, and the next one waits for the parameters after them.

    Args:
        commands: command line of each worker's driver.
        address: of the server.

    Returns:
        The parameters at the end, which every driver has read.

    Raises:
        AssertionError: a driver's answer is not the expected one.
    """
    with workers(commands, address) as drivers, ThreadPoolExecutor(1) as background:
        name = _open(drivers, spec(), address)
        step = 0
        for turn in range(TURNS * len(drivers)):
            driver, following = (drivers[(turn + more) % len(drivers)] for more in (0, 1))
            call = pb.StepsCall(expected_step=step)
            call.gradients.extend(tensors(gradients_at(step + more)) for more in (0, 1))
            waiting: Future[Any] | None = None
            if following is not driver:
                waiting = background.submit(_ask, following, "read", pb.ReadCall(newer_than=step + 1))
            _check_steps(_ask(driver, "steps", call), step)
            step += 2
            if waiting is not None:
                assert waiting.result().step == step
        return _read(drivers, step, name)


def train_synchronously(commands: Sequence[Sequence[str]], address: str) -> Tensors:
    """All workers contribute to each step; arguments and results as of `train_in_turn`."""
    wanted = spec()
    wanted.coordination.sync.SetInParent()
    with workers(commands, address) as drivers, ThreadPoolExecutor(len(drivers)) as threads:
        name = _open(drivers, wanted, address)
        for rank, driver in enumerate(drivers):
            joined = _ask(driver, "join", pb.JoinCall(lease_seconds=LEASE_SECONDS))
            assert joined.rank == rank, f"a worker has the rank {joined.rank}, not {rank}"
        calls = []
        for rank in range(len(drivers)):
            gradients = [tensors(gradients_at(step * len(drivers) + rank)) for step in range(STEPS)]
            calls.append(pb.StepsCall(gradients=gradients))
        for answer in threads.map(lambda driver, call: _ask(driver, "steps", call), drivers, calls):
            _check_steps(answer, 0, STEPS)
        values = _read(drivers, STEPS, name)
        for driver in drivers:
            _ask(driver, "leave", pb.LeaveCall())
        return values


@contextlib.contextmanager
def workers(commands: Sequence[Sequence[str]], address: str) -> Any:
    """A running driver for each command."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(running_driver(command, address)) for command in commands]


def _open(drivers: Sequence[Driver], wanted: SessionSpec, address: str) -> str:
    """Connects all drivers to one session, which the first one creates."""
    name = ""
    for number, driver in enumerate(drivers):
        _ask(driver, "connect", pb.ConnectCall(target=address))
        call = pb.OpenCall(session=name, worker=f"worker-{number}")
        if not name:
            call.spec.CopyFrom(wanted)
            call.parameters.extend(ParameterInit(name=n, value=tensor(a)) for n, a in INITIAL.items())
        found = _ask(driver, "open", call)
        assert found.step == 0
        name = found.session
    return name


def _read(drivers: Sequence[Driver], step: int, name: str) -> Tensors:
    """The parameters, which all drivers read alike."""
    read = []
    for driver in drivers:
        found = _ask(driver, "read", pb.ReadCall())
        assert found.step == step, f"{name} is at step {found.step}, not {step}"
        read.append({named.name: array_of(named.tensor) for named in found.parameters.tensors})
    for values in read[1:]:
        assert same_bits(values, read[0]), "two workers read other parameters"
    return read[0]


def same_bits(one: Tensors, other: Tensors) -> bool:
    """Whether two sets of tensors are equal to the last bit."""
    return one.keys() == other.keys() and all(
        (one[name].dtype, one[name].shape) == (other[name].dtype, other[name].shape)
        and one[name].tobytes() == other[name].tobytes()
        for name in one
    )


def _check_steps(answer: pb.StepsAnswer, before: int, count: int = 2) -> None:
    assert not answer.HasField("refusal"), f"after step {before}: {answer.refusal}"
    found = [outcome.step for outcome in answer.outcomes]
    assert found == list(range(before + 1, before + count + 1)), f"the steps are {found}"


def _ask(driver: Driver, name: str, call: Any) -> Any:
    response = driver.exchange(pb.DriverRequest(**{name: call}))
    assert response.WhichOneof("outcome") == name, f"{name}: {response}"
    return getattr(response, name)
