"""The command ``optserve``: one file per subcommand, and what they share."""
