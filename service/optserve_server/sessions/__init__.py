"""Sessions: their memory, their steps, exactly once."""
