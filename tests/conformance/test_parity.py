"""The parity tables name specs that there are, and the documentation prints them."""

from __future__ import annotations

import pytest

from tests.conformance import names
from tests.conformance.messages import SPECS
from tests.conformance.parity.entry import Entry
from tests.conformance.parity.tables import PAGE, TABLES, text


@pytest.mark.parametrize("family", TABLES)
def test_tables_name_fields_of_the_oneof(family: str) -> None:
    specs = {e.spec for entries in TABLES[family].values() for e in entries.values() if e.spec}
    assert specs <= set(names.oneof_names(SPECS[family].DESCRIPTOR))


OURS = {
    "losses": {"custom", "iou", "giou", "diou", "ciou"},
    "activations": {"maxout"},
    "schedules": {"rsqrt", "warmup_stable_decay", "legacy_decay"},
}
"""What no framework's list has: formulas of the caller, torchvision's boxes, maxout, and Keras 2's decay."""


@pytest.mark.parametrize("family", TABLES)
def test_every_spec_is_in_a_table(family: str) -> None:
    specs = {e.spec for entries in TABLES[family].values() for e in entries.values() if e.spec}
    assert set(names.oneof_names(SPECS[family].DESCRIPTOR)) - specs == OURS[family]


def test_an_entry_is_here_or_excused() -> None:
    for wrong in ({}, {"spec": "nll", "reason": "none"}):
        with pytest.raises(AssertionError):
            Entry(**wrong)


def test_the_page_is_fresh() -> None:
    assert PAGE.read_text(encoding="utf-8") == text(), "python -m tests.conformance.parity.tables writes it"
