"""Session state: layout, arenas, partitions, staging buffers, monitors."""
