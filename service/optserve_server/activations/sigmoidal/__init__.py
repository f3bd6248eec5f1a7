"""Activations that rise from one limit to another."""
