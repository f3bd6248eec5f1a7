"""The frameworks themselves, run for every rule and convention; nothing here is served."""
