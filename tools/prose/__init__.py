"""The linter of prose (make prose)."""
