"""Logs: one JSON object a line on standard error."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from optserve_server.rpc.context import calls


class JsonFormatter(logging.Formatter):
    """Time, level, message, request id and session, and what a record's ``facts`` add."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        call = calls.current.get()
        if call is not None:
            line |= {"request_id": call.request_id, "session": call.session}
            if call.caller is not None and call.caller.token is not None:
                line |= {"caller": call.caller.name, "namespace": call.caller.namespace.name}
        line |= getattr(record, "facts", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure_logs(level: str) -> None:
    """Sends everything of ``level`` and above to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
