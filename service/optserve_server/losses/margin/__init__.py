"""Losses that are 0 beyond a margin."""
