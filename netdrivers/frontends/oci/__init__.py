"""The OCI front end: one hook executable for runc, crun and everything with a config.json, and for LXC."""
