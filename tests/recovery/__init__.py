"""A server on a data directory, ended in every way there is."""
