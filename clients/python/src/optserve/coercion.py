"""Conversion of arguments into the values that the contract takes.

Every public function of the client converts its arguments here, and a specification its fields, so
that a value is accepted everywhere or nowhere. What has one plain meaning is converted; anything
else raises an error that names the argument, the value, and what is allowed.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import IntEnum
from typing import TypeVar, cast

import numpy as np

T = TypeVar("T")
E = TypeVar("E", bound=IntEnum)

NO_LIMIT_S = 100 * 365 * 86400.0
"""The deadline used for no limit: neither gRPC nor Python's locks accept infinity."""
LONGEST_VALUE_SHOWN = 60
"""Characters of a value that an error message repeats."""


def to_seconds(value: object, name: str) -> float:
    """Converts a time-out.

    Args:
        value: seconds, greater than 0; infinity or None for no limit.
        name: of the argument, for errors.

    Returns:
        Seconds, finite.

    Raises:
        ValueError: the value is not a number of seconds greater than 0.
    """
    allowed = "a number of seconds greater than 0, or inf for no limit"
    if value is None:
        return NO_LIMIT_S
    try:
        limit = to_float(value, name)
    except TypeError:
        raise ValueError(error_text(name, value, allowed)) from None
    if not limit > 0:
        raise ValueError(error_text(name, value, allowed))
    return min(limit, NO_LIMIT_S)


def to_timeout(default: float, value: object, name: str = "timeout") -> float:
    """Converts the time-out of one call, of which None stands for the default."""
    return default if value is None else to_seconds(value, name)


def to_float(value: object, name: str) -> float:
    """Converts a real number: of Python, of NumPy, or an array or tensor of one element.

    Raises:
        TypeError: the value is not a number.
    """
    if type(value) is float:
        return value
    plain = _unwrap_scalar(value)
    if isinstance(plain, bool | np.bool_ | str | bytes) or not hasattr(plain, "__float__"):
        raise TypeError(error_text(name, value, "a number"))
    try:
        return float(plain)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise TypeError(error_text(name, value, "a number")) from None


def to_int(value: object, name: str, *, bits: int = 64) -> int:
    """Converts a whole number; a float or an array of one element is accepted if its value is whole.

    Args:
        value: the number.
        name: of the argument, for errors.
        bits: size of the signed integer that must hold it.

    Raises:
        TypeError: the value is no number.
        ValueError: it has a fraction, or does not fit.
    """
    plain = _unwrap_scalar(value)
    if isinstance(plain, bool | np.bool_ | str | bytes):
        raise TypeError(error_text(name, value, "a whole number"))
    try:
        found = operator.index(plain)  # type: ignore[arg-type]  # raises if it is not
    except TypeError:
        real = to_float_or_none(plain)
        if real is None:
            raise TypeError(error_text(name, value, "a whole number")) from None
        if not real.is_integer():
            raise ValueError(error_text(name, value, "a whole number")) from None
        found = int(real)
    if not -(1 << bits - 1) <= found < 1 << bits - 1:
        raise ValueError(error_text(name, value, f"a whole number of at most {bits} bits"))
    return found


def to_step(value: object, name: str) -> int:
    """Converts a step, a whole number of at least 0.

    Raises:
        TypeError: the value is no number.
        ValueError: it is negative, has a fraction, or does not fit into 64 bits.
    """
    found = to_int(value, name)
    if found < 0:
        raise ValueError(error_text(name, value, "a step, at least 0"))
    return found


def to_float_or_none(value: object) -> float | None:
    """The value as a real number; None when it is not one."""
    try:
        return to_float(value, "")
    except TypeError:
        return None


def to_bool(value: object, name: str) -> bool:
    """Converts a truth value of Python or NumPy.

    Raises:
        TypeError: the value is neither.
    """
    plain = _unwrap_scalar(value)
    if not isinstance(plain, bool | np.bool_):
        raise TypeError(error_text(name, value, "True or False"))
    return bool(plain)


def to_optional(convert: Callable[[object, str], T], value: object, name: str) -> T | None:
    """Converts a value unless it is None."""
    return None if value is None else convert(value, name)


def to_string(value: object, name: str) -> str:
    """Checks a string.

    Raises:
        TypeError: the value is not a string.
        ValueError: it contains half of a surrogate pair, which UTF-8 cannot express.
    """
    if not isinstance(value, str):
        raise TypeError(error_text(name, value, "a string"))
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(error_text(name, value, "a string of valid Unicode")) from None
    return str(value)


def to_server_address(value: object, name: str) -> str:
    """Converts an address of a server.

    Raises:
        TypeError: it is no string.
        ValueError: it is empty, or ends where a port should be, for which gRPC would take 443.
    """
    given = to_string(value, name)
    if not given or given.endswith(":"):
        raise ValueError(error_text(name, value, "host:port, unix:/path or another target of gRPC"))
    return given


def to_enum_member(kind: type[E], value: object, name: str) -> E:
    """Converts a member of an enum, or its name in any case.

    Raises:
        TypeError: the value is neither.
        ValueError: the enum has no member of that name.
    """
    if isinstance(value, kind):
        return value
    allowed = f"a {kind.__name__}: one of {', '.join(kind.__members__)}"
    if not isinstance(value, str):
        raise TypeError(error_text(name, value, allowed))
    found = kind.__members__.get(value.strip().upper().replace("-", "_").replace(" ", "_"))
    if found is None:
        raise ValueError(error_text(name, value, allowed))
    return found


def to_tuple(value: object, name: str, item: Callable[[object, str], T]) -> tuple[T, ...]:
    """Converts a list: any iterable with an order, or a single item.

    Args:
        value: a sequence, an array of one dimension, a generator, or one item. A set is accepted
            when its items are strings, because it has no order that numbers could keep.
        name: of the argument, for errors.
        item: converts one item, given its name.

    Raises:
        TypeError: the value is not a list, or an item is wrong.
        ValueError: an item has a value that is not allowed.
    """
    if isinstance(value, Mapping) or (isinstance(value, np.ndarray) and value.ndim > 1):
        raise TypeError(error_text(name, value, "a list of one dimension"))
    if isinstance(value, str | bytes) or not isinstance(value, Iterable) or _is_scalar(value):
        return (item(value, name),)
    items = list(value)
    if isinstance(value, set | frozenset):
        if not all(isinstance(one, str) for one in items):
            raise TypeError(error_text(name, value, "a list or another iterable that has an order"))
        items.sort()
    return tuple([item(one, f"{name}[{index}]") for index, one in enumerate(items)])


def to_strings(value: object, name: str) -> tuple[str, ...]:
    """Converts a list of strings, such as tensor names; one string is a list of one."""
    return to_tuple(value, name, to_string)


def to_mapping(value: Mapping[str, T] | Iterable[tuple[str, T]], name: str) -> Mapping[str, T]:
    """Converts values by name: a mapping, or an iterable of (name, value) pairs.

    Raises:
        TypeError: the value is neither, or a name is no string.
        ValueError: a name is given twice.
    """
    if isinstance(value, dict):  # the fast check
        return value
    if isinstance(value, Mapping):
        return value
    allowed = "a dict by name, or an iterable of (name, value) pairs"
    if (
        isinstance(value, str | bytes | set | frozenset)
        or _is_scalar(value)
        or not hasattr(value, "__iter__")
    ):
        raise TypeError(error_text(name, value, allowed))
    found: dict[str, T] = {}
    for index, pair in enumerate(cast(Iterable[object], value)):
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[0], str):
            raise TypeError(
                error_text(f"{name}[{index}]", pair, f"a (name, value) pair: {name} is {allowed}")
            )
        key, one = pair
        if key in found:
            raise ValueError(f"{name} has two values for {key!r}")
        found[key] = one
    return found


def require_string_keys(values: Mapping[str, T], name: str) -> Mapping[str, T]:
    """Returns the mapping after checking that each of its keys is a string.

    Raises:
        TypeError: a key is not.
    """
    for key in values:
        to_string(key, f"a name in {name}")
    return values


def to_session_name(value: object, name: str = "name") -> str:
    """Converts a reference to a session: its resource name, its id, or an object that has its name.

    Args:
        value: ``sessions/{id}``, the id alone, a `SessionHandle` or a `SessionInfo`.
        name: of the argument, for errors.

    Returns:
        The resource name.

    Raises:
        TypeError: the value names nothing.
        ValueError: it names a snapshot.
    """
    given = value if isinstance(value, str) else getattr(value, "name", None)
    if not isinstance(given, str):
        raise TypeError(error_text(name, value, "a session's name, a SessionHandle or a SessionInfo"))
    if "/snapshots/" in given:
        raise ValueError(error_text(name, given, "a session's name, not that of a snapshot"))
    return given if "/" in given else f"sessions/{to_string(given, name)}"


def to_snapshot_name(value: object, session: str, name: str = "step") -> str:
    """Converts a reference to a snapshot of one session: its step, its resource name, or a `Snapshot`.

    Args:
        value: the step, ``sessions/{id}/snapshots/{step}``, or an object that has that name.
        session: the session's resource name.
        name: of the argument, for errors.

    Returns:
        The snapshot's resource name.

    Raises:
        TypeError: the value names nothing.
        ValueError: it is a snapshot of another session.
    """
    prefix = f"{session}/snapshots/"
    allowed = f"a step, a Snapshot, or a name that begins with {prefix}"
    given = value if isinstance(value, str) else getattr(value, "name", None)
    if isinstance(given, str):
        if not given.startswith(prefix):
            raise ValueError(error_text(name, given, allowed))
        return given
    if isinstance(value, bool) or to_float_or_none(value) is None:
        raise TypeError(error_text(name, value, allowed))
    return f"{prefix}{to_step(value, name)}"


def error_text(name: str, value: object, allowed: str) -> str:
    """The message of an error: the argument, its value, and what is allowed."""
    return f"{name} is {summarize(value)}, but must be {allowed}"


def summarize(value: object) -> str:
    """Describes a value for an error message: arrays by type and shape, others by their repr, truncated."""
    shape = getattr(value, "shape", None)
    if isinstance(shape, Sequence) and len(shape) > 0:
        return f"a {type(value).__name__} of shape {tuple(shape)}"
    written = " ".join(repr(value).split()) if not isinstance(value, str) else repr(value)
    if len(written) > LONGEST_VALUE_SHOWN:
        return f"{written[:LONGEST_VALUE_SHOWN]}... ({type(value).__name__})"
    return written


def _unwrap_scalar(value: object) -> object:
    """The single element of an array or tensor; anything else as it is."""
    read = getattr(value, "item", None)
    if callable(read) and _element_count(value) == 1:
        found: object = read()
        return found
    return value


def _element_count(value: object) -> int | None:
    """Number of elements of an array or tensor; None if it has no such number."""
    shape = getattr(value, "shape", None)
    return math.prod(shape) if isinstance(shape, Sequence) else None


def _is_scalar(value: object) -> bool:
    """Whether the value is an array without dimensions, whose type is iterable."""
    return getattr(value, "shape", None) == ()
