"""Handlers of the services' methods."""
