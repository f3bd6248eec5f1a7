"""Coordination of the workers that train one session: membership, and how contributions become steps."""
