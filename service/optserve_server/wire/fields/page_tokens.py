"""Pages of a listing: their sizes and tokens."""

from __future__ import annotations

import base64
import binascii

from optserve_server.errors import DomainError, Reason, out_of_range_error
from optserve_server.wire.fields.names import check_session_id

DEFAULT_SIZE, MAX_SIZE = 50, 1000
_MARK = b"after:"


def page_size_from(page_size: int) -> int:
    """How many items a page has.

    Raises:
        DomainError: OUT_OF_RANGE at ``page_size``.
    """
    if page_size < 0:
        raise out_of_range_error("page_size", page_size, "at least 0")
    return min(page_size or DEFAULT_SIZE, MAX_SIZE)


def page_start_from(page_token: str) -> str:
    """The id that a page follows; empty for the first page.

    Raises:
        DomainError: INVALID_PAGE_TOKEN at ``page_token``.
    """
    if not page_token:
        return ""
    try:
        decoded = base64.b64decode(page_token.encode(), altchars=b"-_", validate=True)
        after = decoded.removeprefix(_MARK).decode()
        if not decoded.startswith(_MARK) or not check_session_id(after):
            raise ValueError
    except (ValueError, binascii.Error, DomainError):
        raise DomainError(
            Reason.INVALID_PAGE_TOKEN, "the page token was not handed out here", field="page_token"
        ) from None
    return after


def encode_page_token(after: str) -> str:
    """The token of the page that follows ``after``; empty if there is none."""
    return base64.urlsafe_b64encode(_MARK + after.encode()).decode() if after else ""
