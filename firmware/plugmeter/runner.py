"""A run in a process of its own: how the daemon measures, without its threads in the way."""
