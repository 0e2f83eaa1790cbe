"""netctl: the commands for people and scripts; the only room that knows click and rich."""
