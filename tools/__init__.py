"""Commands for those who develop the project."""
