"""What the adapters for frameworks have in common."""
