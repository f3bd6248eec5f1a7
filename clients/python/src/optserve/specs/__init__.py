"""Specifications of sessions, functions and networks.

All modules but `optserve.specs.base` are generated; their names are public as
``optserve.optimizers``, ``optserve.schedules`` and so on.
"""
