"""Formulas that callers send as text: read against a closed list, and never evaluated as Python."""
