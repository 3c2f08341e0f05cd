"""A report made visible: text, HTML, comparison. The report itself is made in ``measure``."""
