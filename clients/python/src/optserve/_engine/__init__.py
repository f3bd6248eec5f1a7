"""The step engine: plans, sequence numbers, retries, results, and shared memory."""
