"""What outlives the process: the journal, snapshots and the data directory. Bytes and arrays alone."""
