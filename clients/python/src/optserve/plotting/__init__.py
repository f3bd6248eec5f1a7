"""Pictures of what a server computes: schedules, activations and optimizers' paths.

`items` reads what is to be drawn, `schedules`, `activations` and `paths` ask the server for
the numbers, `surfaces` has the functions that paths descend, and `pictures` draws. Only
`pictures` needs matplotlib.
"""
