"""Tests of the Python client, against real servers wherever one is needed."""
