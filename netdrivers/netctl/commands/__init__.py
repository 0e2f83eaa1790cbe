"""The commands of netctl, one subject in each file; each is imported when it is called."""
