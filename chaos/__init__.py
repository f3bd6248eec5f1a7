"""Campaigns against a live server: kills, hostile messages, failing networks."""
