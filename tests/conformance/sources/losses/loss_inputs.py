"""Predictions and targets for the losses, exact in float32."""

from __future__ import annotations

from typing import Any

from tests.conformance.inputs import fractions

Given = dict[str, Any]


def rows_of(flat: list[float], columns: int) -> list[list[float]]:
    return [flat[i : i + columns] for i in range(0, len(flat), columns)]


REAL = rows_of([4 * x for x in fractions(15, 5)], 5)
NEAR = [[x + d for x, d in zip(row, rest, strict=True)]
        for row, rest in zip(REAL, rows_of([2 * x for x in fractions(15, 23)], 5), strict=True)]  # fmt: skip
"""Targets within 2 of `REAL`: on both sides of every threshold used."""

POSITIVE = rows_of([abs(x) * 4 for x in fractions(15, 5)], 5)
COUNTS = [[0.0, 1.0, 3.0, 2.0, 0.0], [5.0, 0.0, 1.0, 1.0, 8.0], [2.0, 4.0, 0.0, 1.0, 6.0]]
ANSWERS = [[0.0, 1.0, 1.0, 0.0, 1.0], [1.0, 0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0, 0.0]]
SIGNS = [[2 * y - 1 for y in row] for row in ANSWERS]
DOUBTFUL = [[0.25, 1.0, 0.5, 0.0, 0.75], [1.0, 0.0, 0.125, 1.0, 0.5], [0.0, 0.875, 1.0, 0.25, 0.0]]
CHANCES = rows_of([(abs(x) * 64 - 0.5) / 64 for x in fractions(15, 41)], 5)
"""Probabilities strictly between 0 and 1."""

CERTAIN = [[0.0, 1.0, 1.0, 0.0, 0.5], [1.0, 0.0, 0.25, 0.5, 1.0], [0.5, 0.75, 0.0, 1.0, 0.0]]
FAR = [
    [-128.0, 4096.0, -32.0, 64.0, 0.0],
    [2048.0, -4096.0, 0.5, 128.0, -64.0],
    [40.0, -40.0, 20.0, -20.0, 1.0],
]
LOG_CHANCES = [[-abs(x) * 3 for x in row] for row in REAL]
ONE_HOT = [[0.0, 1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0, 0.0]]
DISTRIBUTIONS = [[0.25, 0.5, 0.25, 0.0, 0.0], [0.0, 0.125, 0.125, 0.5, 0.25], [0.0, 0.0, 0.0, 1.0, 0.0]]
LOGITS = rows_of([2 * x for x in fractions(15, 61)], 5)

BOXES = [
    [0.0, 0.0, 4.0, 2.0],  # meets
    [1.0, 1.0, 2.0, 3.0],  # lies within
    [0.0, 1.0, 8.0, 6.0],  # holds
    [-3.0, -2.0, -1.0, -0.5],  # far off
    [0.5, -1.0, 2.5, 1.0],  # meets in one direction only
    [0.25, 0.5, 3.25, 4.5],  # shares an edge
]
WANTED = [
    [1.0, 0.5, 5.0, 4.0],
    [0.5, 0.0, 3.0, 4.0],
    [2.0, 2.0, 5.0, 4.0],
    [1.0, 2.0, 3.0, 3.0],
    [1.0, 2.0, 4.0, 6.0],
    [0.25, 1.0, 5.25, 4.0],
]

KINDS: dict[str, Given] = {
    "real": {"prediction": REAL, "target": NEAR},
    "positive": {"prediction": POSITIVE, "target": [[abs(y) for y in row] for row in NEAR]},
    "counts": {"prediction": POSITIVE, "target": COUNTS},
    "log_rates": {"prediction": LOGITS, "target": COUNTS},
    "chances": {"prediction": CHANCES, "target": ANSWERS},
    "doubtful": {"prediction": CHANCES, "target": DOUBTFUL},
    "certain": {"prediction": CERTAIN, "target": ANSWERS},
    "logits": {"prediction": LOGITS, "target": ANSWERS},
    "far_logits": {"prediction": FAR, "target": ANSWERS},
    "doubtful_logits": {"prediction": LOGITS, "target": DOUBTFUL},
    "margins": {"prediction": LOGITS, "target": SIGNS},
    "margins_of_answers": {"prediction": LOGITS, "target": ANSWERS},
    "distributions": {"prediction": CHANCES, "target": DISTRIBUTIONS},
    "log_chances": {"prediction": LOG_CHANCES, "target": DISTRIBUTIONS},
    "classes": {"prediction": LOGITS, "target": ONE_HOT},
    "soft_classes": {"prediction": LOGITS, "target": DISTRIBUTIONS},
    "indices": {"prediction": LOGITS, "target": [1, 4, 0]},
    "share_indices": {"prediction": CHANCES, "target": [1, 4, 0]},
    "boxes": {"prediction": BOXES, "target": WANTED},
    "distances": {"prediction": POSITIVE, "target": SIGNS},
    "log_indices": {"prediction": LOG_CHANCES, "target": [1, 4, 0]},
    "log_distributions": {
        "prediction": LOG_CHANCES,
        "target": [[-abs(x) * 2 for x in row] for row in NEAR],
    },
    "label_lists": {"prediction": LOGITS, "target": [[1, 4, -1, 2, -1], [3, -1, 0, 0, 0], [0, 2, 1, 4, -1]]},
}

IMAGE = {
    "prediction": [[[x, 1 - x, x / 2] for x in row[:4]] for row in CHANCES],
    "target": [[[y, 0.0, 1 - y] for y in row[:4]] for row in ANSWERS],
}
"""Masks of 4 places and 3 classes for each of 3 examples."""


def stack(*parts: Any) -> Any:
    """Predictions [n][d] stacked to [n][parts][d]."""
    return [list(rows) for rows in zip(*parts, strict=True)]


SCORES = {"prediction": stack(REAL, NEAR), "target": SIGNS}
NORMAL = {"prediction": stack(REAL, [[x / 4 for x in row] for row in POSITIVE]), "target": NEAR}
VECTORS = {"prediction": stack([*REAL, *LOGITS], [*NEAR, *REAL]), "target": [1.0, -1.0, -1.0, 1.0, -1.0, 1.0]}
TRIPLETS = {"prediction": stack([*REAL, *LOGITS], [*NEAR, *REAL], [*LOGITS, *NEAR]), "target": []}

ELEMENT_WEIGHTS = [[0.5, 1.0, 2.0, 0.0, 0.25], [1.5, 0.75, 1.0, 4.0, 0.125], [0.5, 0.5, 3.0, 1.0, 2.0]]

SAMPLE_WEIGHT = [0.5, 2.0, 0.25]


def columns(given: Given) -> Given:
    """The same with its axes exchanged."""
    return {name: [list(column) for column in zip(*rows, strict=True)] for name, rows in given.items()}


def weigh(given: Given) -> Given:
    """The same with sample weights."""
    return given | {"sample_weight": SAMPLE_WEIGHT}
