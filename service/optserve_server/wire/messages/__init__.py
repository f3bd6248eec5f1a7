"""Sessions, steps, snapshots and events as messages."""
