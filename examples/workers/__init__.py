"""Four worker processes train the digits together, in every mode of coordination."""
