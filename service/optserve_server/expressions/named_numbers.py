"""Validation of the named constants of expressions."""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Collection

from optserve_server.errors import DomainError, Reason, out_of_range_error
from optserve_server.hyperparameters import NamedNumbers

MAX_CONSTANTS = 32
"""Named numbers of an expression."""

_NAME = re.compile("[A-Za-z_][A-Za-z0-9_]{0,31}")


def check_named_numbers(constants: NamedNumbers, taken: Collection[str]) -> None:
    """Rejects too many constants, and names and values that an expression cannot have.

    Args:
        constants: the constants.
        taken: names of the expression's functions and variables.

    Raises:
        DomainError: MALFORMED_NAME or OUT_OF_RANGE.
    """
    if len(constants) > MAX_CONSTANTS:
        allowed = f"at most {MAX_CONSTANTS}"
        text = f"there are {len(constants)} constants, but may be {allowed}"
        raise out_of_range_error(None, len(constants), allowed, text)
    for name, number in constants:
        if not _NAME.fullmatch(name) or keyword.iskeyword(name):
            raise DomainError(Reason.MALFORMED_NAME, f"{name[:40]!a} cannot be the name of a constant")
        if name in taken:
            raise DomainError(Reason.MALFORMED_NAME, f"{name} means something else in an expression")
        if not math.isfinite(number):
            text = f"{name} is {number}, but must be finite"
            raise out_of_range_error(f"[{name}]", number, "finite", text)
