"""The loss of a formula that the caller sends."""
