"""The dashboard in a browser: make test-dashboard."""
