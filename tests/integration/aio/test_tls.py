"""The client for asyncio over TLS, with a token."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import optserve
from optserve import aio, errors
from tests.integration.aio.conftest import INITIAL, ONE, sgd
from tests.support.certificates import Authority
from tests.support.server import run_to_end, running_server


def test_tls_and_tokens(tmp_path: Path) -> None:
    authority = Authority()
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    tokens = tmp_path / "tokens.toml"
    token = run_to_end("token", f"--tokens-file={tokens}", "--namespace=alice").stdout.strip()
    credentials = optserve.tls.credentials(tmp_path / "ca.pem")

    async def main(address: str) -> None:
        async with (
            aio.connect(address, token=token, credentials=credentials) as client,
            client.create_session(INITIAL, sgd()) as session,
            session.stream(pull=True) as stream,
        ):
            assert (await session.step(ONE)).step == 1
            assert (await stream.step(ONE)).parameters["w"].tolist() == [-2, -1, 0]
            assert (await session.pull())["w"].tolist() == [-2, -1, 0]
            await session.push({"w": INITIAL["w"]})
        async with aio.connect(address, token="wrong", credentials=credentials) as client:
            with pytest.raises(errors.Unauthenticated):
                await client.create_session(INITIAL, sgd())
        async with aio.connect(address, token=token, timeout=1) as client:
            with pytest.raises(errors.OptserveError, match="speaks TLS"):
                await client.capabilities()

    with running_server(**authority.pair().write(tmp_path), tokens_file=tokens) as server:
        asyncio.run(main(server.address))
