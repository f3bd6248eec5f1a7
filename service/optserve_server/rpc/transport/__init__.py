"""Listeners, TLS, data connections, descriptor passing."""
