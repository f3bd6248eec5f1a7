"""The campaigns of `chaos`, shortened."""
