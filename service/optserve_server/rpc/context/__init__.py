"""The current call, byte counters, draining."""
