"""Activations that are 0, or nearly, around 0."""
