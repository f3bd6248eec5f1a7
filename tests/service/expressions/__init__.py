"""Tests of formulas sent as text."""
