"""Lexical check of expressions: characters, numbers, names, parentheses.

It stands before Python's own parser, so that this never meets a keyword, a string, a bracket
other than a round one, or a character outside ASCII, which it would normalise. What passes
also has the same indices in characters and in bytes.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from optserve_server.expressions.expression_error import expression_error, printable_excerpt

MAX_LENGTH = 1024
"""Characters of an expression."""

MAX_DEPTH = 48
"""How deep an expression may be nested."""

TOKEN = re.compile(
    r"""  (?P<space> [ \t\r\n]+ )
        | (?P<number> (?> (?: \d+ \.? \d* | \. \d+ ) (?: [eE] [+-]? \d+ )? ) (?! [\w.] ) )
        | (?P<name> [A-Za-z_] \w* )
        | (?P<sign> [<>=!]= | [-+*/(),<>] )
    """,
    re.VERBOSE | re.ASCII,
)


def check_tokens(text: str, names: Collection[str]) -> None:
    """Checks length, characters, numbers, names and parentheses.

    Raises:
        DomainError: INVALID_EXPRESSION.
    """
    if len(text) > MAX_LENGTH:
        raise expression_error(text, MAX_LENGTH, len(text), f"it is longer than {MAX_LENGTH} characters")
    if not text.strip(" \t\r\n"):
        raise expression_error(text, 0, len(text), "it is empty")
    opened: list[int] = []
    after_value = False
    start = 0
    while start < len(text):
        word = TOKEN.match(text, start)
        if word is None:
            raise _unknown_token_error(text, start)
        if word.lastgroup == "name" and word.group() not in names:
            raise expression_error(
                text, start, word.end(), f"nothing is called {printable_excerpt(word.group())}"
            )
        if word.lastgroup in ("name", "number") and after_value:
            raise expression_error(text, start, word.end(), "an operator is missing in front of this")
        if word.lastgroup != "space":
            after_value = word.lastgroup in ("name", "number") or word.group() == ")"
        _check_parenthesis(text, start, opened)
        start = word.end()
    if opened:
        raise expression_error(text, opened[-1], opened[-1] + 1, "this parenthesis is never closed")


def _check_parenthesis(text: str, at: int, opened: list[int]) -> None:
    if text[at] == "(":
        opened.append(at)
        if len(opened) > MAX_DEPTH:
            raise expression_error(text, at, at + 1, f"it is nested deeper than {MAX_DEPTH}")
    elif text[at] == ")":
        if not opened:
            raise expression_error(text, at, at + 1, "this parenthesis was never opened")
        opened.pop()


def _unknown_token_error(text: str, start: int) -> Exception:
    """The error of what is neither number, name nor sign."""
    if text[start].isascii() and (text[start].isdigit() or text[start] == "."):
        found = re.compile(r"[\w.]+", re.ASCII).match(text, start)
        stop = found.end() if found else start + 1
        return expression_error(text, start, stop, f"{printable_excerpt(text[start:stop])} is no number")
    shown = f"U+{ord(text[start]):04X}" if not text[start].isascii() else printable_excerpt(text[start])
    return expression_error(text, start, start + 1, f"the character {shown} has no place here")
