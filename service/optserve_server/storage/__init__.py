"""Durable storage: the journal, snapshots and the data directory. Knows bytes and arrays only."""
