"""Parser of formulas that callers send as text: a closed list of nodes, never evaluated as Python."""
