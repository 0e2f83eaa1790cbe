"""The state room: what is attached, leased and published, in SQLite under the state directory."""
