"""Imported files that no server has written: refused as malformed, or a whole session from then on."""

from __future__ import annotations

from pathlib import Path
from random import Random

import grpc
import pytest

from chaos.fuzz.snapshots import mutate_snapshot, templates
from optserve.v1 import session_service_pb2 as pb
from tests.integration.client import Client
from tests.recovery.test_durability import kill, running
from tests.recovery.test_snapshots import export, receive
from tests.support.tiers import slow_unless

ALLOWED = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED}


def try_import(client: Client, data: bytes, session_id: str) -> grpc.StatusCode:
    try:
        receive(client, data, 1 << 20, session_id=session_id)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def list_names(client: Client) -> set[str]:
    answer = client.sessions.ListSessions(pb.ListSessionsRequest(page_size=1000), timeout=20)
    return {session.name for session in answer.sessions}


@pytest.mark.parametrize("seed", slow_unless((0).__eq__, range(2)))
def test_a_mutated_snapshot_is_refused_or_makes_a_whole_session(tmp_path: Path, seed: int) -> None:
    random, exported = Random(seed), dict[str, bytes]()
    with running(tmp_path) as (server, client):
        for number in range(250):
            code = try_import(client, mutate_snapshot(random), f"s{number}")
            if code is grpc.StatusCode.OK:
                exported[f"sessions/s{number}"] = b""
            else:
                assert code in ALLOWED
            assert list_names(client) == exported.keys()
        assert exported
        for name in exported:
            exported[name] = export(client, name)
        kill(server)
    with running(tmp_path) as (_, client):
        assert list_names(client) == exported.keys()
        for name, data in exported.items():
            assert export(client, name) == data


def test_what_is_valid_is_taken(tmp_path: Path) -> None:
    with running(tmp_path) as (_, client):
        for number, data in enumerate(templates()):
            assert try_import(client, data, f"s{number}") is grpc.StatusCode.OK
