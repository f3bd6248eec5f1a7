"""Callers and their tokens."""
