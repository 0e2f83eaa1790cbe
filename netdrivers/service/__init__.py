"""The warm process: a Unix socket where executables hand in their calls, and the tasks that run beside."""
