"""Contenders, ours and others: each is a client program that takes commands, with its own server."""
