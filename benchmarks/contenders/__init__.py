"""Ours and others, each a program: a client that is told what to do, with a server of its own."""
