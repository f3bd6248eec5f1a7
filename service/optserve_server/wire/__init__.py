"""Messages to domain objects and back, and errors to statuses."""
