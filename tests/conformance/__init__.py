"""The conformance corpus: recorded values that every implementation has to reproduce."""
