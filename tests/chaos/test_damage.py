"""The short form of ``make damage``."""

from __future__ import annotations

from chaos.damage import KINDS, damage


def test_every_damage_is_found_or_in_unused_bytes() -> None:
    tally = damage(100, 5, 3)
    assert tally.missed == []
    assert set(tally.found) == {kind.__name__ for kind in KINDS}
    assert tally.found.total() > 60
