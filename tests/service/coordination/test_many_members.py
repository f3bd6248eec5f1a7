"""A session with more members than workers whose results it stores otherwise."""

from __future__ import annotations

import numpy as np
import pytest

from optserve_server.coordination import membership_change
from optserve_server.errors import DomainError, Reason
from optserve_server.optimizers.sgd import SGD
from optserve_server.spec.coordination import (
    CoordinationAsync,
    CoordinationRounds,
    CoordinationSpec,
    CoordinationSync,
)
from optserve_server.state.step_deduplication import WORKERS_KEPT
from tests.service.coordination.support import Coordinated
from tests.service.sessions.support import spec_of

ONES: dict[str, np.ndarray] = {"w": np.ones(1)}
MANY = WORKERS_KEPT + 2


def make_coordinated(coordination: CoordinationSpec) -> Coordinated:
    return Coordinated(spec_of(SGD(), coordination=coordination), {"w": np.zeros(1)})


@pytest.mark.parametrize("coordination", [CoordinationAsync(), CoordinationSync()], ids=["async", "sync"])
def test_no_member_loses_its_sequence(coordination: CoordinationSpec) -> None:
    made = make_coordinated(coordination)
    members = [made.join(f"w{number}") for number in range(MANY)]
    for member in members:
        made.contribute(member.worker, member.epoch, 1, ONES, at=made.session.step)
    made.leave(members[-1].worker, members[-1].epoch)
    another = made.join("another")
    for member in (*members[:-1], another):
        sequence = made.session.step_deduplication.next_sequence(member.worker)
        assert sequence == (1 if member is another else 2)
        made.contribute(member.worker, member.epoch, sequence, ONES, at=made.session.step)
    assert {made.session.step_deduplication.next_sequence(one.worker) for one in members[:-1]} == {3}


@pytest.mark.parametrize(
    ("coordination", "limit", "value"),
    [
        (CoordinationSync(), "max_members", "3"),
        (CoordinationRounds(buffer_size=1, max_active=2), "max_active", "2"),
        (CoordinationRounds(buffer_size=1, max_active=9), "max_members", "3"),
    ],
)
def test_one_member_too_many_is_rejected_by_name(
    coordination: CoordinationSpec, limit: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership_change, "MAX_MEMBERS", 3)
    made = make_coordinated(coordination)
    for number in range(int(value)):
        made.join(f"w{number}")
    with pytest.raises(DomainError) as caught:
        made.join("another")
    assert caught.value.reason is Reason.LIMIT_EXCEEDED
    assert caught.value.metadata == {"limit": limit, "value": value}
    assert made.join("w0").epoch > 1  # which is a member already
