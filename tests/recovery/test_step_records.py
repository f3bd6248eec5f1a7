"""What the journal holds of a step is what was asked, however it was put into words."""

from __future__ import annotations

import dataclasses

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from optserve_server.spec.override import Override
from optserve_server.state.step_result import StepOptions
from optserve_server.stepping.step_record import encode_step_record
from optserve_server.storage.record_payload import unpack_payload
from tests.service.sessions.support import session_of, spec_of

SESSION = session_of(spec_of(), {'a"\\': np.ones(3, np.float32), "b": np.ones(2, np.float32)})
STAGING = SESSION.allocate_staging(None, None)

OPTIONS = st.builds(
    StepOptions,
    worker=st.text(min_size=1),
    sequence=st.integers(1, 2**63),
    expected_step=st.one_of(st.none(), st.integers(-(2**63), 2**63)),
    loss_scale=st.floats(allow_nan=False, allow_infinity=False).filter(bool),
    validate_only=st.booleans(),
    per_tensor_norms=st.booleans(),
    gradient_id=st.integers(0, 2**64 - 1),
    overrides=st.lists(
        st.builds(
            Override, group=st.one_of(st.none(), st.text()), name=st.text(), value=st.floats(-1e300, 1e300)
        )
    ).map(tuple),
)


@given(OPTIONS)
def test_a_record_says_what_was_asked(options: StepOptions) -> None:
    STAGING.array(STAGING.tensors[0])[:] = [1, 2, 3]
    payload = b"".join(bytes(piece) for piece in encode_step_record(STAGING, options))
    facts, buffers = unpack_payload(memoryview(payload))
    asked = dataclasses.asdict(options)
    del asked["member"]  # records of contributions have it
    asked["overrides"] = [[override.group, override.name, override.value] for override in options.overrides]
    assert facts == {
        "kind": "step",
        "options": asked,
        "tensors": [['a"\\', "float32"], ["b", "float32"]],
        "rows": [],
    }
    assert [bytes(buffer) for buffer in buffers] == [STAGING.buffer.tobytes()]
