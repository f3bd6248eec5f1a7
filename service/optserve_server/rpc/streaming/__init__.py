"""Streamed steps and pushes."""
