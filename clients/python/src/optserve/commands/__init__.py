"""The command ``optserve``: one file per subcommand, and common helpers."""
