"""What operators see of a server: metrics, health and traces."""
