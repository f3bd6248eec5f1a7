"""Memory and processors: limits, accounting, allocator settings."""
