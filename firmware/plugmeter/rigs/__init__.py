"""Whatever plugs and unplugs: injected, gadget, relay, or a person (passive)."""
