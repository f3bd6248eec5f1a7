"""Formats of the log: JSON for machines, text for people; one line a record, on standard error."""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Literal

from optserve_server.rpc.context import calls

LogFormat = Literal["auto", "json", "text"]

_PLAIN = re.compile(r"[\w./:@%+,\[\]-]+")
"""Values that text does not quote."""


class JsonFormatter(logging.Formatter):
    """Time, level, message, request id and session, and what a record's ``facts`` add, as a JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        return json.dumps(self.describe(record), ensure_ascii=False, default=str)

    def describe(self, record: logging.LogRecord) -> dict[str, object]:
        """What the line says, by name."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        call = calls.current.get()
        if call is not None:
            line |= {"request_id": call.request_id, "session": call.session}
            if call.worker:
                line["worker"] = call.worker
            if call.caller is not None:
                line["namespace"] = call.caller.namespace.name
                if call.caller.token is not None:
                    line["caller"] = call.caller.name
        line |= getattr(record, "facts", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return line


class TextFormatter(JsonFormatter):
    """The same as text: time, level and message, then ``name=value``; a traceback follows on further lines.

    Values with spaces, quotes or control characters are quoted as in JSON: no caller can write a line.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        line = self.describe(record)
        time, level, message = (str(line.pop(name)) for name in ("time", "level", "message"))
        traceback = line.pop("traceback", None)
        facts = [f"{name}={_quote(value)}" for name, value in line.items() if value not in (None, "")]
        text = " ".join([time, f"{level.upper():<7}", _escape(message), *facts])
        return text if traceback is None else f"{text}\n{traceback}"


def _quote(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def _escape(message: str) -> str:
    return message if message.isprintable() else json.dumps(message)


def configure_logs(level: str, log_format: LogFormat) -> None:
    """Sends everything of ``level`` and above to standard error; auto is text if that is a terminal."""
    is_text = sys.stderr.isatty() if log_format == "auto" else log_format == "text"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TextFormatter() if is_text else JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
