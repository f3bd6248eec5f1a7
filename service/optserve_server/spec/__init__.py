"""Session specification: optimizer, groups, gradient settings, monitors, durability."""
