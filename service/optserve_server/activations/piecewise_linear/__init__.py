"""Activations that consist of straight lines."""
