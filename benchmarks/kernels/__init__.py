"""Kernels alone, without a wire, and without a session if none is needed."""
