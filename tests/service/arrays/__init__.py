"""Tests of programs and executors."""
