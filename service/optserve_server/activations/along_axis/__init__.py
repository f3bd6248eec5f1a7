"""Activations whose elements depend on others along an axis."""
