"""Messages of the corpus and the drivers, written by `make generate`."""
