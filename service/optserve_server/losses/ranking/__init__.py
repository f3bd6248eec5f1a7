"""Losses of the order of scores."""
