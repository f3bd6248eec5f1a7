"""Tables in HTML, which notebooks show for sessions, specifications and results.

Everything that is shown is escaped: names of sessions and tensors come from other people. There are no
colors, so that the tables look right in light and dark themes.
"""

from __future__ import annotations

import html
import itertools
from collections.abc import Iterable, Mapping, Sequence

from optserve.formatting import format_field

MAX_ROWS = 20
"""Rows that a long table shows; a last one says how many it leaves out."""

MAX_TEXT = 400
"""Characters of a value that a table shows."""

LEFT, RIGHT = 'style="text-align:left"', 'style="text-align:right"'


class Html(str):
    """What is HTML already, and not escaped."""


def render_fields(title: str, fields: Mapping[str, object]) -> Html:
    """Returns a table with a row for each field; fields that are unset or empty are left out.

    Args:
        title: what they describe.
        fields: values by name.
    """
    rows = []
    for name, value in fields.items():
        if isinstance(value, Html):
            shown = str(value)
        elif value is None or (isinstance(value, tuple | Mapping) and not value):
            continue
        else:
            shown = _escape_field(name, value)
        rows.append(f"<tr><th {LEFT}>{_label(name)}</th><td {LEFT}>{shown}</td></tr>")
    return _table(title, rows)


def render_rows(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], count: int | None = None
) -> Html:
    """Returns a table with a heading; numbers are on the right.

    Args:
        title: what the rows describe.
        columns: names of the columns.
        rows: values in the order of the columns.
        count: how many rows there are, of which the first 20 are shown; None shows all.
    """
    heads = "".join(f"<th {LEFT}>{_label(name)}</th>" for name in columns)
    lines = [f"<tr>{heads}</tr>"]
    for row in rows if count is None else itertools.islice(rows, MAX_ROWS):
        cells = "".join(map(_cell, columns, row))
        lines.append(f"<tr>{cells}</tr>")
    if count is not None and count > MAX_ROWS:
        lines.append(f'<tr><td {LEFT} colspan="{len(columns)}">and {count - MAX_ROWS} more</td></tr>')
    return _table(title, lines)


def _table(title: str, rows: Sequence[str]) -> Html:
    caption = f"<caption {LEFT}>{html.escape(title)}</caption>" if title else ""
    return Html(f"<table>{caption}<tbody>{''.join(rows)}</tbody></table>")


def _cell(name: str, value: object) -> str:
    style = RIGHT if type(value) in (int, float) else LEFT
    return f"<td {style}>{_escape_field(name, value)}</td>"


def _escape_field(name: str, value: object) -> str:
    text = format_field(name, value)
    return html.escape(text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…")


def _label(name: str) -> str:
    return html.escape(name.replace("_", " "))
