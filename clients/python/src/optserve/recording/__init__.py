"""Copies of sessions' histories for experiment trackers (extras ``tensorboard``, ``mlflow``)."""
