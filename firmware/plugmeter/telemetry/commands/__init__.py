"""What the controller may have this device do: each command with an effect exactly once, or a reason."""
