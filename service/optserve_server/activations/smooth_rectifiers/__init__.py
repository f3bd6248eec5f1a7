"""Activations that approach 0 or a constant on the left and a line on the right."""
