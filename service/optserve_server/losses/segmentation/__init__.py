"""Losses of masks, from their overlap."""
