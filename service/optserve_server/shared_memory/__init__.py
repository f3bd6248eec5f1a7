"""Memory shared with clients on the same host."""
