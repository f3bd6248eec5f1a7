"""Evaluation of expressions: Python's grammar, restricted to a list of nodes."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np

from optserve_server.arrays.ops import NumpyOps, Ops, Value
from optserve_server.errors import DomainError
from optserve_server.expressions.expression_error import expression_error
from optserve_server.expressions.lexical_check import MAX_DEPTH, check_tokens

MAX_NODES = 256
"""Numbers, names, operators and calls of an expression."""

MAX_EXPONENT = 16
"""The greatest magnitude of an exponent."""

FUNCTIONS: dict[str, int] = {
    "where": 3,
    "maximum": 2,
    "minimum": 2,
    "power": 2,
    "abs": 1,
    "sqrt": 1,
    "exp": 1,
    "expm1": 1,
    "log": 1,
    "log1p": 1,
    "tanh": 1,
    "sign": 1,
}
"""The functions, with how many arguments they take."""

Binary: TypeAlias = Callable[[Any, Any], Any]

OPERATORS: Mapping[type[ast.operator], Binary] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}

COMPARISONS: Mapping[type[ast.cmpop], Binary] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.eq,  # there is no != in the vocabulary: where() exchanges its branches
}


@dataclass(frozen=True)
class Function:
    """A function that some expressions have beside `FUNCTIONS`.

    Attributes:
        arity: how many arguments it takes.
        compute: the function of arrays or numbers.
    """

    arity: int
    compute: Callable[..., Any]


def evaluate_formula(
    text: str,
    ops: Ops,
    variables: Mapping[str, Value],
    numbers: Mapping[str, float],
    more_functions: Mapping[str, Function] = MappingProxyType({}),
) -> Value:
    """The value of an expression.

    What involves numbers alone is computed here, in float64, and has to be finite.

    Args:
        text: the expression.
        ops: what its functions are.
        variables: what its variables are, by name.
        numbers: named numbers.
        more_functions: functions beside `FUNCTIONS`, by name. A ``power`` among them takes any exponent.

    Returns:
        A value as ``ops`` makes them, or a float if no variable is involved.

    Raises:
        DomainError: INVALID_EXPRESSION with the field ``expression`` and the metadata
            ``position``, as in "1:12", line and column, both counted from 1, the latter in
            characters, and ``text``, the offending text, shortened.
    """
    check_tokens(text, {*FUNCTIONS, *more_functions, *variables, *numbers})
    names = {**variables, **{n: float(x) for n, x in numbers.items()}}
    return _Reader(text, ops, names, more_functions).evaluate_node(_parse_expression(text))


def _parse_expression(text: str) -> ast.expr:
    """The syntax tree of a text that `check_tokens` let pass; its columns are indices, plus one."""
    # In parentheses, so that lines need no continuation; inside them, white space is all alike.
    line = "(" + text.translate({ord(c): " " for c in "\t\r\n"}) + ")"
    try:
        return ast.parse(line, mode="eval").body
    except SyntaxError as error:
        start = min(max((error.offset or 0) - 2, 0), len(text))
        raise expression_error(text, start, len(text), "nothing can be made of this") from None
    except (MemoryError, RecursionError, ValueError):
        raise expression_error(text, 0, len(text), "it is nested too deeply") from None


class _Reader:
    """Evaluates a syntax tree; rejects every node that is not listed."""

    def __init__(
        self, text: str, ops: Ops, names: Mapping[str, Value], more_functions: Mapping[str, Function]
    ) -> None:
        self._text, self._ops, self._names, self._more_functions = text, ops, names, more_functions
        self._arities = FUNCTIONS | {name: function.arity for name, function in more_functions.items()}
        self._nodes = 0
        self._depth = 0

    def evaluate_node(self, node: ast.expr) -> Value:
        """The value of a node."""
        self._nodes += 1
        self._depth += 1
        if self._nodes > MAX_NODES:
            raise self._node_error(node, f"it has more than {MAX_NODES} parts")
        if self._depth > MAX_DEPTH:
            raise self._node_error(node, f"it is nested deeper than {MAX_DEPTH}")
        found = self._evaluate_by_type(node)
        self._depth -= 1
        return found

    def _evaluate_by_type(self, node: ast.expr) -> Value:
        match node:
            case ast.Constant(value=int() | float()):
                return self._evaluate_number(node)
            case ast.Name(id=name) if name in self._names:
                return self._names[name]
            case ast.UnaryOp(op=ast.UAdd()):
                return self.evaluate_node(node.operand)
            case ast.UnaryOp(op=ast.USub()):
                return -self.evaluate_node(node.operand)
            case ast.BinOp(op=ast.Pow()):
                return self._evaluate_power(node, node.left, node.right)
            case ast.BinOp() if type(node.op) in OPERATORS:
                a, b = self.evaluate_node(node.left), self.evaluate_node(node.right)
                return self._apply_function(node, OPERATORS[type(node.op)], a, b)
            case ast.Call(func=ast.Name(id=name), keywords=[]) if name in self._arities:
                return self._evaluate_call(node, name)
            case ast.Name(id=name):
                raise self._node_error(node, f"{name} is a function and needs its arguments")
            case ast.Compare():
                raise self._node_error(node, "a comparison stands only as the first argument of where")
        raise self._node_error(node, "this is not part of the language")

    def _evaluate_call(self, node: ast.Call, name: str) -> Value:
        arguments = node.args
        arity = self._arities[name]
        if len(arguments) != arity:
            wanted = "1 argument" if arity == 1 else f"{arity} arguments"
            raise self._node_error(node, f"{name} takes {wanted}, not {len(arguments)}")
        if name == "where":
            return self._evaluate_where(*arguments)
        if name == "power":
            return self._evaluate_power(node, *arguments)
        values = [self.evaluate_node(argument) for argument in arguments]
        if name in self._more_functions:
            function = self._more_functions[name].compute
        else:
            function = getattr(NumpyOps() if _are_constants(values) else self._ops, name)
        return self._apply_function(node, function, *values)

    def _evaluate_where(self, condition: ast.expr, a: ast.expr, b: ast.expr) -> Value:
        if not isinstance(condition, ast.Compare):
            raise self._node_error(condition, "the first argument of where is a comparison")
        if len(condition.ops) != 1:
            raise self._node_error(condition, "comparisons are not chained: put one where into another")
        (sign,), (right,) = condition.ops, condition.comparators
        if type(sign) not in COMPARISONS:
            raise self._node_error(condition, "this is not part of the language")
        holds = COMPARISONS[type(sign)](self.evaluate_node(condition.left), self.evaluate_node(right))
        branches = self.evaluate_node(a), self.evaluate_node(b)
        if isinstance(sign, ast.NotEq):
            branches = branches[1], branches[0]
        return branches[not holds] if isinstance(holds, bool) else self._ops.where(holds, *branches)

    def _evaluate_power(self, node: ast.expr, base: ast.expr, exponent: ast.expr) -> Value:
        x, n = self.evaluate_node(base), self.evaluate_node(exponent)
        if "power" in self._more_functions:
            return self._apply_function(node, self._more_functions["power"].compute, x, n)
        if not (isinstance(n, float) and n.is_integer() and abs(n) <= MAX_EXPONENT):
            what = f"an exponent is a whole number from -{MAX_EXPONENT} to {MAX_EXPONENT}"
            raise self._node_error(exponent, what)
        if isinstance(x, float):
            return self._apply_function(node, np.power, x, n)
        return _integer_power(x, int(n))

    def _apply_function(self, node: ast.expr, function: Callable[..., Any], *values: Value) -> Value:
        """A function of values; of numbers, computed in float64."""
        if not _are_constants(values):
            return function(*values)
        with np.errstate(all="ignore"):
            number = float(function(*map(np.float64, values)))
        return self._require_finite(node, number)

    def _evaluate_number(self, node: ast.Constant) -> float:
        value: Any = node.value
        try:
            return self._require_finite(node, float(value))
        except OverflowError:  # a whole number that no float can hold
            return self._require_finite(node, float("inf"))

    def _require_finite(self, node: ast.expr, number: float) -> float:
        if not np.isfinite(number):
            raise self._node_error(node, "this number is not finite")
        return number

    def _node_error(self, node: ast.expr, what: str) -> DomainError:
        # Columns count the parenthesis that was put in front, and may include both of them.
        stop = min((node.end_col_offset or 0) - 1, len(self._text))
        return expression_error(self._text, max(node.col_offset - 1, 0), stop, what)


def _are_constants(values: Iterable[Value]) -> bool:
    """Whether no variable is involved."""
    return all(isinstance(value, float) for value in values)


def _integer_power(x: Value, n: int) -> Value:
    """``x**n`` by products."""
    if n < 0:
        return 1.0 / _integer_power(x, -n)
    if n == 0:
        return 1.0
    half = _integer_power(x, n // 2)
    square = half * half if n > 1 else 1.0
    return square if n % 2 == 0 else x if n == 1 else square * x
