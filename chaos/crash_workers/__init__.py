"""Workers of one session that are killed, as is their server, and an audit of what was committed."""
