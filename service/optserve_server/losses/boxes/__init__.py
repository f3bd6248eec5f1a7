"""Losses of boxes, from their overlap."""
