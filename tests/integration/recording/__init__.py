"""Histories of sessions in event files and runs."""
