"""Figures, never tests: ``make bench`` runs them beside their peers."""
