"""All parity tables, by family; a family joins with a line here and its lists in `public_names`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.conformance.parity.activations import ACTIVATIONS
from tests.conformance.parity.entry import Table
from tests.conformance.parity.losses import LOSSES
from tests.conformance.parity.schedules import SCHEDULES

TABLES: Mapping[str, Table] = {"losses": LOSSES, "activations": ACTIVATIONS, "schedules": SCHEDULES}

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "parity.md"

HEAD = """\
# Losses, activations and schedules of the frameworks

Where each loss, activation and schedule of Keras, PyTorch and optax (activations: JAX) is in optserve: the
field of `LossSpec`, `ActivationSpec` or `ScheduleSpec`. Set the spec's `convention` to the framework's for
its defaults. `make conformance-sources` fails if a framework offers a name that is not listed. This page is
written from `tests/conformance/parity`.
"""


def text() -> str:
    """The page of all tables."""
    return "\n".join([HEAD, *(line for family in TABLES for line in lines(family))])


def lines(family: str) -> Iterator[str]:
    """One family's section."""
    yield from (f"## {family.capitalize()}", "")
    for framework, entries in TABLES[family].items():
        title = "jax.nn" if (family, framework) == ("activations", "optax") else framework
        yield from (f"### {title}", "", "| there | here | remark |", "|---|---|---|")
        for name, entry in sorted(entries.items(), key=lambda item: item[0].lower()):
            spec = f"`{entry.spec}`" if entry.spec else "none"
            yield f"| `{name}` | {spec} | {entry.how or entry.reason} |"
        yield ""


def main() -> None:
    """Writes the page."""
    PAGE.write_text(text(), encoding="utf-8")


if __name__ == "__main__":
    main()
