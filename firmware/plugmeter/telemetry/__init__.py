"""The outbox and the link: every record reaches the controller, exactly once in effect."""
