"""Rules, schedules, losses, activations and initializers by themselves."""
