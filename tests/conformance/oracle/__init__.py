"""The mathematics once more, in plain float64 scalars; imports nothing of the service."""
