"""Rounds of many simulated clients, some of which drop out of each round."""
