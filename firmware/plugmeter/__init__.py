"""Plugmeter: evidence of USB loss whose own loss is provably zero."""

__version__ = "0.1.0"
