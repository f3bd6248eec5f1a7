"""The modes of coordination that the example compares."""

from __future__ import annotations

import optserve

WORKERS = 4

MODES: dict[str, optserve.Coordination] = {
    "solo": optserve.CoordinationSolo(),
    "sync": optserve.CoordinationSync(),
    # The slowest worker is a backup; what it sends late is dropped.
    "sync-3-of-4": optserve.CoordinationSync(replicas_to_aggregate=WORKERS - 1),
    "async": optserve.CoordinationAsync(damping=optserve.Damping.INVERSE),
    "bounded": optserve.CoordinationBounded(8),
    # The deadline closes the rounds of those that are left when a worker is lost.
    "rounds": optserve.CoordinationRounds(WORKERS, deadline_seconds=0.5, max_staleness=1),
}
"""By name, as the command line has it."""
