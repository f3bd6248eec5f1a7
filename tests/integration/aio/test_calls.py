"""Every call of the client for asyncio, beside the same one with threads."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from typing import Any

import numpy as np
import pytest

import optserve
from optserve import aio, errors
from optserve.events import Began, Deleted
from tests.integration.aio.conftest import INITIAL, ONE, sgd
from tests.support.server import RunningServer, running_server


def equal(left: Any, right: Any) -> bool:
    """Whether results are equal, arrays bit by bit."""
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and left.tobytes() == right.tobytes()
    if isinstance(left, tuple):
        return len(left) == len(right) and all(map(equal, left, right))
    if isinstance(left, optserve.LossValue):
        return left.value == right.value and equal(left.gradient, right.gradient)
    return bool(left == right)


X, DY = np.linspace(-2, 2, 7), np.ones(7)
COSINE = optserve.schedules.Cosine(initial_learning_rate=0.1, decay_steps=100)
LAYERS = optserve.layers.Network([optserve.layers.Dense(units=3)], input_shape=(4,))
CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "capabilities": ((), {}),
    "health": ((), {"timeout": 10}),
    "evaluate_schedule": ((COSINE, range(0, 100, 7)), {}),
    "loss": (("mean_squared_error", X, DY), {"gradient": True}),
    "activation": (("prelu", X), {"slope": np.full(1, 0.25)}),
    "activation_gradient": (("prelu", X, DY), {"slope": np.full(1, 0.25)}),
    "estimate_complexity": ((LAYERS,), {"batch_size": 3}),
}


@pytest.mark.parametrize("name", CALLS)
def test_functions_compute_the_same(name: str, server: RunningServer, client: optserve.Client) -> None:
    arguments, keywords = CALLS[name]

    async def main() -> Any:
        async with aio.connect(server.address) as connected:
            return await getattr(connected, name)(*arguments, **keywords)

    assert equal(asyncio.run(main()), getattr(client, name)(*arguments, **keywords))


def test_a_session_from_its_creation_to_its_end(server: RunningServer) -> None:
    async def main() -> None:
        client = await aio.connect(server.address)
        async with client, client.create_session(INITIAL, sgd(), session_id="aio-life") as session:
            assert (session.name, session.step_number, list(session.layout)) == (
                "sessions/aio-life",
                0,
                ["w", "b"],
            )
            assert repr(session) == "<AsyncSessionHandle sessions/aio-life at step 0>"
            result = await session.step(ONE, pull=True)
            assert (result.step, session.step_number) == (1, 1)
            assert result.parameters["w"].tolist() == [-1, 0, 1]
            pulled = await session.pull(["b"], wire_dtype="float16")
            assert (pulled.step, pulled["b"].dtype) == (1, np.float16)
            into: dict[str, Any] = {"w": np.zeros(3), "b": np.zeros((2, 2), np.float32)}
            await session.step(ONE, pull=True, into=into)
            assert into["w"].tolist() == [-2, -1, 0]
            info = await session.push({"w": np.zeros(3)}, expected_step=2)
            assert info.step == 2
            report = await session.report({"loss": 0.5})
            assert report.metrics == {"loss": 0.5}
            changed = dataclasses.replace(session.spec, optimizer=optserve.optimizers.Adam(learning_rate=0.1))
            assert (await session.update(changed))[""].started == ("m", "v")
            assert isinstance(session.spec.optimizer, optserve.optimizers.Adam)
            history = await session.history()
            assert history.steps["step"].tolist() == [1, 2]
            assert history.metrics["loss"]["value"].tolist() == [0.5]
            assert await session.workers() == []
            async with client.session("aio-life", worker="trainer") as other:
                assert (await other.step(ONE)).step == 3
            assert (await session.get()).step == 3
            names = [info.name async for info in client.sessions(page_size=1)]
            assert session.name in names
            await session.delete()
            with pytest.raises(errors.NotFound):
                await session.step(ONE)

    asyncio.run(main())


def test_large_parameters_are_uploaded_and_pulled(server: RunningServer) -> None:
    values = np.random.default_rng(3).normal(size=700_003)

    async def main() -> None:
        async with aio.connect(server.address) as client:
            session = await client.create_session({"w": values}, sgd())
            assert (await session.pull())["w"].tobytes() == values.tobytes()
            result = await session.step({"w": values}, pull=True)
            assert not result.parameters["w"].any()
            await session.delete()

    asyncio.run(main())


def test_a_failed_upload_deletes_the_session(
    server: RunningServer, client: optserve.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*arguments: object, **keywords: object) -> None:
        raise errors.Unavailable("gone")

    async def main() -> None:
        async with aio.connect(server.address) as connected:
            monkeypatch.setattr(aio.AsyncSessionHandle, "push", fails)
            with pytest.raises(errors.Unavailable):
                await connected.create_session({"w": np.zeros(700_003)}, sgd(), session_id="aio-broken")

    asyncio.run(main())
    assert "sessions/aio-broken" not in {info.name for info in client.sessions()}


def test_events_arrive_until_the_end(server: RunningServer) -> None:
    async def main() -> None:
        async with aio.connect(server.address) as client:
            session = await client.create_session(INITIAL, sgd())
            async with contextlib.aclosing(session.watch()) as events:
                assert isinstance((await anext(events)).what, Began)
                await session.step(ONE)
                what = (await anext(events)).what
                assert isinstance(what, optserve.StepResult)
                assert what.step == 1
                await session.delete()
                assert [event.what async for event in events] == [Deleted(expired=False)]
            with pytest.raises(errors.NotFound):
                await anext(session.watch())

    asyncio.run(main())


def test_snapshots_and_files(tmp_path: Any) -> None:
    async def main(address: str) -> None:
        async with aio.connect(address) as client:
            session = await client.create_session(INITIAL, sgd())
            await session.step(ONE)
            made = await session.snapshots.create()
            await session.step(ONE)
            assert (await session.snapshots.restore(made)).step == session.step_number == 1
            assert made in await session.snapshots.list()
            forked = await session.snapshots.fork(made, session_id="forked")
            assert (await (await client.session(forked)).pull())["w"].tolist() == [-1, 0, 1]
            path = tmp_path / "session.safetensors"
            assert await session.snapshots.export(path, progress=False) == 1
            back = await client.import_session(path, session_id="back")
            assert (await back.step(ONE, pull=True)).parameters["w"].tolist() == [-2, -1, 0]
            await session.snapshots.delete(made)
            with pytest.raises(FileNotFoundError):
                await client.import_session(tmp_path / "missing")

    with running_server(data_dir=tmp_path / "data") as server:
        asyncio.run(main(server.address))


def test_a_file_that_cannot_be_read_raises_its_own_error(server: RunningServer, tmp_path: Any) -> None:
    class Broken(contextlib.ExitStack):
        """A file whose second read fails."""

        def __init__(self, content: Any) -> None:
            super().__init__()
            self._content, self._reads = content, 0

        def tell(self) -> int:
            return int(self._content.tell())

        def seek(self, *place: int) -> int:
            return int(self._content.seek(*place))

        def read(self, count: int) -> bytes:
            self._reads += 1
            if self._reads > 1:
                raise OSError("the disk is broken")
            return bytes(self._content.read(count))

    async def main() -> None:
        path = tmp_path / "file"
        path.write_bytes(bytes(3 << 20))
        async with aio.connect(server.address) as client:
            with path.open("rb") as content, pytest.raises(OSError, match="the disk is broken"):
                await client.import_session(Broken(content))  # type: ignore[arg-type]

    asyncio.run(main())


def test_wrong_arguments_raise_before_anything_is_sent(server: RunningServer) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="timeout is 0"):
            await aio.connect(server.address, timeout=0)
        async with aio.connect(server.address) as client:
            session = await client.create_session(INITIAL, sgd())
            with pytest.raises(ValueError, match="window is 65"):
                await session.stream(window=65)
            with pytest.raises(errors.InvalidArgument):
                await session.step({"other": np.ones(3)})
            with pytest.raises(ValueError, match="into has no array"):
                await session.step(ONE, pull=True, into={"w": np.zeros(3)})
            with pytest.raises(ValueError, match="no parameter is given"):
                await session.push({})
            assert (await session.step(ONE)).step == 1
            await session.delete()

    asyncio.run(main())


def test_a_client_needs_a_running_loop(server: RunningServer) -> None:
    opening = aio.connect(server.address)
    with pytest.raises(RuntimeError, match="no running event loop"):
        opening.__await__().send(None)
