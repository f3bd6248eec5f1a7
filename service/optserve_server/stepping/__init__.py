"""The step: plan, sparse rows, statistics, update, result, record."""
