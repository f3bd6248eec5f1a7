"""Malformed and hostile messages against a live server."""
