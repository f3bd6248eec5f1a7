"""Losses with their gradients, in plain scalars."""
