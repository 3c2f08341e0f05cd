"""The only place where the daemon is put together: lifecycle, outbox, link, runner, commands, metrics."""
