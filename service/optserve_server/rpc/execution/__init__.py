"""Execution of changes: order, durability, idempotency."""
