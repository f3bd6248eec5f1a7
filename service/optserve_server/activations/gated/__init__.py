"""Activations that are their input times a gate."""
