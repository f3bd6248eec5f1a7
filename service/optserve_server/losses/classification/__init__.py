"""Losses of class probabilities and logits."""
