"""The generated messages and stubs of the contract, made from ``proto/optserve/v1`` by ``make generate``."""
