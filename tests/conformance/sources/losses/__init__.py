"""Sources of losses."""
