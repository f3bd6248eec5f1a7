"""Every rule, flag and dtype on every executor, bit for bit."""
