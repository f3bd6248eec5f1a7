"""What the frameworks offer, and where it is here."""
