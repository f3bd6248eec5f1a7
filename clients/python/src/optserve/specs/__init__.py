"""Specifications: what a session, a function or a network is asked to be.

All modules but `optserve.specs.base` are generated; their names are public as
``optserve.optimizers``, ``optserve.schedules`` and so on.
"""
