"""Error of a text that is no expression, with the position of the first mistake."""

from __future__ import annotations

from optserve_server.errors import DomainError, Reason

SHOWN = 40
"""Characters of the offending text that are quoted."""


def expression_error(text: str, start: int, stop: int, what: str) -> DomainError:
    """INVALID_EXPRESSION with a position.

    Args:
        text: the whole expression, as it was sent.
        start: index of the first offending character; the end of the text if one is missing.
        stop: index after the last one.
        what: what is wrong, as a clause.
    """
    line = text.count("\n", 0, start) + 1
    column = start - text.rfind("\n", 0, start)
    return DomainError(
        Reason.INVALID_EXPRESSION,
        f"line {line}, column {column} of the expression: {what}",
        field="expression",
        metadata={"position": f"{line}:{column}", "text": printable_excerpt(text[start:stop])},
    )


def printable_excerpt(text: str) -> str:
    """``text`` shortened, with what cannot be printed escaped."""
    short = text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in short)
