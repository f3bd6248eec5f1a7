"""Commands of ``optserve-server`` beside ``serve``."""
