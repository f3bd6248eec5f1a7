"""JSON in pieces is the JSON of the standard library."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optserve_server.storage import json_text

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5)
)
LARGE = {
    "layout": [(f"tensor {i}", "float32", (i, 2)) for i in range(2 * json_text.PIECE_ENTRIES + 1)],
    "entries": {f"tensor {i}": {"data_offsets": [i, i + 1]} for i in range(json_text.PIECE_ENTRIES + 1)},
}


@given(VALUES)
def test_any_value_is_written_and_parsed_as_by_the_standard_library(value: Any) -> None:
    text = json.dumps(value, separators=(",", ":"))
    assert json_text.dumps(value) == text
    assert json_text.loads(text) == value
    assert json_text.loads(json.dumps(value, indent=1)) == value


@pytest.mark.parametrize("value", [LARGE, LARGE["layout"], LARGE["entries"]])
def test_many_entries_are_written_and_parsed_as_by_the_standard_library(value: Any) -> None:
    text = json.dumps(value, separators=(",", ":"))
    assert json_text.dumps(value) == text
    assert json_text.loads(text) == json.loads(text)


@given(st.text(alphabet='{}[]",: \n0a\\', max_size=12))
def test_what_is_not_json_is_rejected_as_by_the_standard_library(text: str) -> None:
    try:
        expected = json.loads(text)
    except ValueError:
        with pytest.raises(json.JSONDecodeError):
            json_text.loads(text)
    else:
        assert json_text.loads(text) == expected
