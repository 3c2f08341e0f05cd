"""Starts, drains, watches and stops the daemon."""
