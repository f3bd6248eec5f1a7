"""Names and page tokens: taken or refused, and never anything else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optserve_server.errors import DomainError, Reason
from optserve_server.wire.fields import names, page_tokens
from tests.service.wire.support import outcome

IDS = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)


@given(IDS)
def test_an_id_comes_back_out_of_its_name_and_token(session_id: str) -> None:
    assert names.session_id_from(names.session_name(session_id)) == session_id
    assert names.check_session_id(session_id) == session_id
    assert page_tokens.page_start_from(page_tokens.encode_page_token(session_id)) == session_id


@given(st.text())
def test_any_other_text_is_refused_in_words_for_the_caller(text: str) -> None:
    session_id = outcome(lambda: names.session_id_from(text))
    if isinstance(session_id, DomainError):
        assert session_id.reason in (Reason.MALFORMED_NAME, Reason.FIELD_REQUIRED)
    else:
        assert names.session_name(session_id) == text
    after = outcome(lambda: page_tokens.page_start_from(text))
    if isinstance(after, DomainError):
        assert (after.reason, after.field) == (Reason.INVALID_PAGE_TOKEN, "page_token")
    else:
        assert page_tokens.encode_page_token(after) == text


@pytest.mark.parametrize("name", ["w\x00", "\x7f", "a\tb", "x" * 256])
def test_tensor_names_have_no_control_characters_and_an_end(name: str) -> None:
    with pytest.raises(DomainError) as caught:
        names.check_tensor_name(name)
    assert (caught.value.reason, caught.value.field) == (Reason.MALFORMED_NAME, "name")


@pytest.mark.parametrize("name", ["w", "dense/kernel:0", "層/重み", "x" * 255])
def test_other_tensor_names_are_taken(name: str) -> None:
    assert names.check_tensor_name(name) == name


def test_sizes_of_pages() -> None:
    assert [page_tokens.page_size_from(size) for size in (0, 1, 1000, 2_000_000)] == [50, 1, 1000, 1000]
