"""Adapters for frameworks, against the frameworks' own optimizers; run by `make test-adapters`."""
