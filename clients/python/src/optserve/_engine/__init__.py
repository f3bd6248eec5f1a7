"""The step engine: plans, numbering, what is sent again, results, and shared memory."""
