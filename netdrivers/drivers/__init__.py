"""The drivers' room: pure functions from networks and attachments to plans."""
