"""Pure: time and records come in as arguments, values go out; no socket, thread, clock or file."""
