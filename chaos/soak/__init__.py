"""Many clients, for minutes, over a network that fails again and again."""
