"""optax: a gradient transformation whose rule runs on a server (extra ``optax``)."""

from optserve.optax.remote_transformation import RemoteState, RemoteTransformation

__all__ = ["RemoteState", "RemoteTransformation"]
