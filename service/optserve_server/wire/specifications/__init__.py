"""Specifications as messages."""
