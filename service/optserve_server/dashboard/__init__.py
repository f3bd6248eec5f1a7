"""The dashboard: a read-only page of sessions, their curves, workers and snapshots."""
