"""Kernels alone: no session where none is needed, no wire."""
