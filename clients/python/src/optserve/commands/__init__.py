"""The command ``optserve``: a file for each subcommand, and what they share."""
