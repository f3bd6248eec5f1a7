"""Losses of the directions and distances of vectors."""
