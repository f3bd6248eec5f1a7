"""Durability: change records, snapshots, recovery, eviction."""
