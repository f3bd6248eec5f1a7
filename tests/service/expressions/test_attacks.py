"""What is not an expression is refused where it stops being one, whatever it is."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optserve_server.arrays.ops import NumpyOps
from optserve_server.errors import DomainError, Reason
from optserve_server.expressions import formula
from optserve_server.expressions.expression_error import SHOWN
from optserve_server.expressions.formula import FUNCTIONS, MAX_NODES
from optserve_server.expressions.lexical_check import MAX_DEPTH, MAX_LENGTH
from tests.service.expressions.reading import PREDICTION, TARGET, expect_refusal, read

HUGE = "9" * 400
ATTACKS: dict[str, tuple[str, str]] = {
    # attributes, subscripts, strings
    "y_pred.real": ("1:7", ".real"),
    "y_pred . real": ("1:8", "."),
    "y_pred.__class__.__mro__": ("1:7", ".__class__.__mro__"),
    "().__class__": ("1:3", ".__class__"),
    "1 .real": ("1:3", ".real"),
    "1..real": ("1:1", "1..real"),
    "y_pred[0]": ("1:7", "["),
    "[y_pred]": ("1:1", "["),
    "{y_pred: 1}": ("1:1", "{"),
    "'y_pred'": ("1:1", "'"),
    '"y_pred"': ("1:1", '"'),
    "f'{y_pred}'": ("1:1", "f"),
    "b'y'": ("1:1", "b"),
    "`y_pred`": ("1:1", "`"),
    # other names and other calls
    "__import__('os').system('true')": ("1:1", "__import__"),
    "eval(y_pred)": ("1:1", "eval"),
    "y_pred + globals()": ("1:10", "globals"),
    "__builtins__": ("1:1", "__builtins__"),
    "y_pred(1)": ("1:1", "y_pred(1)"),
    "abs(y_pred)(1)": ("1:1", "abs(y_pred)(1)"),
    "(abs)(abs)": ("1:7", "abs"),
    "abs": ("1:1", "abs"),
    "y_pred + where": ("1:10", "where"),
    "y_Pred": ("1:1", "y_Pred"),
    "COST*y_pred": ("1:1", "COST"),
    # statements, keywords, other expressions of Python
    "lambda: y_pred": ("1:1", "lambda"),
    "(y := y_pred)": ("1:2", "y"),
    "(y_pred := 1)": ("1:9", ":"),
    "y_pred = 1": ("1:8", "="),
    "y_pred if y_pred else 1": ("1:8", "if"),
    "y_pred for y_pred in y_true": ("1:8", "for"),
    "(y_pred for x in y_true)": ("1:9", "for"),
    "y_pred and y_true": ("1:8", "and"),
    "where(y_pred > 1 or y_true > 1, 1, 2)": ("1:18", "or"),
    "where(not y_pred > 1, 1, 2)": ("1:7", "not"),
    "y_pred is y_true": ("1:8", "is"),
    "y_pred in y_true": ("1:8", "in"),
    "await y_pred": ("1:1", "await"),
    "yield": ("1:1", "yield"),
    "True*y_pred": ("1:1", "True"),
    "None": ("1:1", "None"),
    "nan*y_pred": ("1:1", "nan"),
    "inf": ("1:1", "inf"),
    "...": ("1:1", "..."),
    "y_pred; y_true": ("1:7", ";"),
    "y_pred # comment": ("1:8", "#"),
    "y_pred \\\n + 1": ("1:8", "\\"),
    "y_pred, y_true": ("1:1", "y_pred, y_true"),
    "()*y_pred": ("1:1", "()"),
    "(y_pred,)*2": ("1:1", "(y_pred,)"),
    # operators that are not in the language
    "y_pred // 2": ("1:1", "y_pred // 2"),
    "y_pred % 2": ("1:8", "%"),
    "y_pred @ y_true": ("1:8", "@"),
    "~y_pred": ("1:1", "~"),
    "y_pred ^ 2": ("1:8", "^"),
    "y_pred << 2": ("1:1", "y_pred << 2"),
    "y_pred & y_true": ("1:8", "&"),
    "not_y_pred!": ("1:1", "not_y_pred"),
    "y_pred ! y_true": ("1:8", "!"),
    "y_pred <> y_true": ("1:8", "<> y_true"),
    # comparisons
    "y_pred > y_true": ("1:1", "y_pred > y_true"),
    "1 + (y_pred > y_true)": ("1:6", "y_pred > y_true"),
    "where(y_pred, 1, 2)": ("1:7", "y_pred"),
    "where(1 < y_pred < 2, 1, 2)": ("1:7", "1 < y_pred < 2"),
    "where(y_pred > (y_true > 1), 1, 2)": ("1:17", "y_true > 1"),
    "where(y_pred > 1, y_pred > 2, 2)": ("1:19", "y_pred > 2"),
    # arguments
    "abs()": ("1:1", "abs()"),
    "abs(y_pred, 1)": ("1:1", "abs(y_pred, 1)"),
    "where(y_pred > 1, 2)": ("1:1", "where(y_pred > 1, 2)"),
    "abs(*y_pred)": ("1:5", "*y_pred"),
    "maximum(*y_pred, y_true)": ("1:9", "*y_pred"),
    "where(*y_pred, 1, 2)": ("1:7", "*y_pred"),
    "abs(**y_pred)": ("1:1", "abs(**y_pred)"),
    "abs(x=y_pred)": ("1:5", "x"),
    "abs(y_pred=y_true)": ("1:11", "="),
    # numbers
    "1e999*y_pred": ("1:1", "1e999"),
    "-1e999 + y_pred": ("1:2", "1e999"),
    f"{HUGE}*y_pred": ("1:1", HUGE[: SHOWN - 1] + "…"),
    "1/0*y_pred": ("1:1", "1/0"),
    "y_pred + log(0)": ("1:10", "log(0)"),
    "sqrt(-1)*y_pred": ("1:1", "sqrt(-1)"),
    "1e200*1e200*y_pred": ("1:1", "1e200*1e200"),
    "0x10*y_pred": ("1:1", "0x10"),
    "1_000*y_pred": ("1:1", "1_000"),
    "1j*y_pred": ("1:1", "1j"),
    "1if 1else 2": ("1:1", "1if"),
    "1.2.3": ("1:1", "1.2.3"),
    "1e*y_pred": ("1:1", "1e"),
    "007*y_pred": ("1:1", "007*y_pred"),
    # powers
    "y_pred**99": ("1:9", "99"),
    "y_pred**-17": ("1:9", "-17"),
    "y_pred**0.5": ("1:9", "0.5"),
    "y_pred**y_true": ("1:9", "y_true"),
    "2**y_pred": ("1:4", "y_pred"),
    "power(y_pred, y_pred)": ("1:15", "y_pred"),
    "9**9**9**9*y_pred": ("1:7", "9**9"),
    "10**16**16*y_pred": ("1:5", "16**16"),
    "(1e300)**2*y_pred": ("1:1", "(1e300)**2"),
    "y_pred**1e999": ("1:9", "1e999"),
    # what is not finished
    "": ("1:1", ""),
    " \n ": ("1:1", " \\n "),
    "y_pred +": ("1:9", ""),
    "* y_pred": ("1:1", "* y_pred"),
    "y_pred y_true": ("1:8", "y_true"),
    "y_pred 2": ("1:8", "2"),
    "y_pred(y_true) 2": ("1:16", "2"),
    "(y_pred": ("1:1", "("),
    "y_pred)": ("1:7", ")"),
    ")(": ("1:1", ")"),
    "y_pred) + (y_true": ("1:7", ")"),
    "abs(y_pred,,)": ("1:12", ",)"),
    # where it is counted
    "y_pred\n  + y_tru": ("2:5", "y_tru"),
    "y_pred\r\n+\r\n  oops": ("3:3", "oops"),
    "y_pred +\n\n\n \t 1/0": ("4:4", "1/0"),
    # characters
    "y_pred\x00": ("1:7", "\\x00"),
    "\x00": ("1:1", "\\x00"),
    "y_pred\x0b+ 1": ("1:7", "\\x0b"),
    "y_pred\x0c": ("1:7", "\\x0c"),
    "\ufeffy_pred": ("1:1", "\\ufeff"),
    "y_pred\u00a0": ("1:7", "\\xa0"),
    "y_pred\u2028+ 1": ("1:7", "\\u2028"),
    "y_pred \u2212 1": ("1:8", "\u2212"),
    "\u0443_pred": ("1:1", "\u0443"),
    "\uff59_pred": ("1:1", "\uff59"),
    "\U0001d4ce_pred": ("1:1", "\U0001d4ce"),
    "y\u0332_pred": ("1:1", "y"),
    "y\u200d_pred": ("1:1", "y"),
    "\u202ey_pred": ("1:1", "\\u202e"),
    "\u0661*y_pred": ("1:1", "\u0661"),
    "y_pred\u00b2": ("1:7", "\u00b2"),
    "abs\uff08y_pred\uff09": ("1:4", "\uff08"),
    "\ud800": ("1:1", "\\ud800"),
    "1e5\u0660*y_pred": ("1:4", "\u0660"),
}


@pytest.mark.parametrize(("text", "told"), ATTACKS.items(), ids=map(ascii, ATTACKS))
def test_an_attack_is_refused_where_it_begins(text: str, told: tuple[str, str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert expect_refusal(text) == told


def test_columns_count_characters_of_any_width() -> None:
    """Names of the language are ASCII, so whatever is wide is the offence itself."""
    assert expect_refusal("y_pred + \U0001f600\U0001f600")[0] == "1:10"


def oversize() -> Iterator[tuple[str, str]]:
    yield "y_pred".ljust(MAX_LENGTH + 1), f"1:{MAX_LENGTH + 1}"
    yield "y_pred + " * 10**6, f"1:{MAX_LENGTH + 1}"
    yield "(" * (MAX_DEPTH + 1) + "y_pred" + ")" * (MAX_DEPTH + 1), f"1:{MAX_DEPTH + 1}"
    yield "(" * MAX_LENGTH, f"1:{MAX_DEPTH + 1}"
    yield "-" * (MAX_LENGTH - 6) + "y_pred", f"1:{MAX_DEPTH + 1}"
    yield "+".join(["y_pred"] * (MAX_DEPTH + 1)), "1:1"
    yield "**".join(["1"] * 300), f"1:{3 * (MAX_DEPTH - 1) + 1}"
    yield "abs(" * 200 + "y_pred" + ")" * 200, f"1:{4 * MAX_DEPTH + 4}"
    yield "where(1<2," * 50 + "1" + ",1)" * 50, f"1:{10 * MAX_DEPTH + 6}"


@pytest.mark.parametrize(("text", "position"), list(oversize()), ids=range(9))
def test_size_is_bounded(text: str, position: str) -> None:
    assert expect_refusal(text)[0] == position


def test_the_number_of_parts_is_bounded() -> None:
    text = "1+1"
    while len(text) < MAX_LENGTH // 3:
        text = f"({text})-({text})"
    row = "+".join([f"({'+'.join('1' * 20)})"] * 8)
    assert expect_refusal(row + "+y_pred")[0].startswith("1:")
    assert sum(map(row.count, "1+")) > MAX_NODES


@pytest.mark.parametrize("error", [RecursionError, MemoryError, ValueError])
def test_what_overwhelms_the_parser_is_refused(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which depth does so differs between versions of Python, and is out of reach for most."""

    def parse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("optserve_server.expressions.formula.ast.parse", parse)
    assert expect_refusal("--y_pred") == ("1:1", "--y_pred")


def test_names_that_normalise_to_ours_are_refused() -> None:
    """Python's own parser would take each of them for y_pred."""
    letters = [c for c in map(chr, range(128, 0x20000)) if unicodedata.normalize("NFKC", c) in "yabswhere"]
    assert len(letters) > 50
    for letter in letters:
        if unicodedata.normalize("NFKC", letter) == "y":
            expect_refusal(f"{letter}_pred")
        expect_refusal(f"{letter}bs(y_pred)")


def outcome(text: str) -> DomainError | None:
    try:
        read(text)
    except DomainError as error:
        return error
    return None


PIECES = st.sampled_from([
    *FUNCTIONS, "y_pred", "y_true", "1", "0", "2.5", "1e9", "(", ")", ",", "+", "-", "*", "/", "**", "<", ">",
    "==", "!=", "<=", " ", "\n", "=", ".", "[", "'", "\\", "#", ":", "lambda", "é", "\x00", "1e999", "0x",
])  # fmt: skip


@given(st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=25).map("".join)))
@settings(max_examples=400, deadline=None)
def test_whatever_is_sent_is_read_or_refused(text: str) -> None:
    error = outcome(text)
    if error is None:
        assert text.isascii()
        return
    assert error.reason is Reason.INVALID_EXPRESSION
    line, column = map(int, error.metadata["position"].split(":"))
    lines = text.split("\n")
    assert 1 <= line <= len(lines)
    assert 1 <= column <= len(lines[line - 1]) + 1
    assert error.metadata["text"].isprintable()


@given(st.lists(st.sampled_from(["y_pred", "y_true", "1", "2.5"]), min_size=1, max_size=8), st.data())
@settings(max_examples=100, deadline=None)
def test_what_is_read_means_what_it_means_to_python(leaves: list[str], data: st.DataObject) -> None:
    """Python itself is the judge, for texts that this test makes."""
    text = leaves[0]
    for leaf in leaves[1:]:
        sign = data.draw(st.sampled_from([" + ", " - ", "*", "/"]))
        text = f"({text}{sign}{leaf})" if data.draw(st.booleans()) else f"{text}{sign}{leaf}"
    with np.errstate(all="ignore"):
        expected = eval(text, {"__builtins__": {}}, {"y_pred": PREDICTION, "y_true": TARGET})
    assert np.allclose(read(text), expected, rtol=1e-14, equal_nan=True)


def test_nothing_is_evaluated_as_python(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("an expression was executed")

    for name in ("eval", "exec"):
        monkeypatch.setitem(formula.__dict__, name, never)
    assert read("y_pred - y_true").tolist() == (PREDICTION - TARGET).tolist()
    assert set(dir(NumpyOps)) >= set(FUNCTIONS) - {"power"}
