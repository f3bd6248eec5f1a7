"""Forms of a log line."""

from __future__ import annotations

import io
import json
import logging
import sys

import pytest

from optserve_server.rpc.middleware.log_formats import JsonFormatter, TextFormatter, configure_logs


def record(message: str, **facts: object) -> logging.LogRecord:
    made = logging.LogRecord("optserve_server", logging.WARNING, "", 0, message, (), None)
    made.created, made.facts = 1e9, facts
    return made


def test_text_has_the_facts_of_json() -> None:
    facts = {"count": 3, "path": "/a b", "none": None, "list": ["x", "y"]}
    assert TextFormatter().format(record("made", **facts)) == (
        "2001-09-09T01:46:40.000+00:00 WARNING made count=3 path=\"/a b\" list=\"['x', 'y']\""
    )
    assert json.loads(JsonFormatter().format(record("made", **facts))) == {
        "time": "2001-09-09T01:46:40.000+00:00",
        "level": "warning",
        "message": "made",
        **facts,
    }


@pytest.mark.parametrize("text", ["two\nlines", 'a" b=c', "\x1b[31mred", "é\u2028"])
def test_no_value_makes_another_line_or_another_fact(text: str) -> None:
    line = TextFormatter().format(record(text, value=text))
    assert len(line.splitlines()) == 1
    assert "\x1b" not in line
    assert line.endswith(f" value={json.dumps(text)}")


def test_a_traceback_follows() -> None:
    made = record("defect")
    try:
        raise ValueError("wrong")
    except ValueError:
        made.exc_info = sys.exc_info()
    first, *rest = TextFormatter().format(made).splitlines()
    assert first.endswith("WARNING defect")
    assert (rest[0], rest[-1]) == ("Traceback (most recent call last):", "ValueError: wrong")


class Terminal(io.StringIO):
    """A terminal, as far as a log knows."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("log_format", "stream", "is_text"),
    [
        ("auto", io.StringIO, False),
        ("auto", Terminal, True),
        ("text", io.StringIO, True),
        ("json", Terminal, False),
    ],
)
def test_auto_is_text_on_a_terminal(
    log_format: str, stream: type[io.StringIO], is_text: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    monkeypatch.setattr(sys, "stderr", printed := stream())
    try:
        configure_logs("info", log_format)
        logging.getLogger("optserve_server").info("said")
    finally:
        for handler in root.handlers[:]:
            root.removeHandler(handler)
        for handler in before[0]:
            root.addHandler(handler)
        root.setLevel(before[1])
    assert printed.getvalue().startswith("{") != is_text
    assert "said" in printed.getvalue()
