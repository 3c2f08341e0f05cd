"""I/O in: everything that tells Plugmeter what happened to a USB port."""
