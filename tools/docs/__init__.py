"""What make docs generates."""
