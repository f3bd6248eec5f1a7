"""Operation of a server: metrics, health and traces."""
