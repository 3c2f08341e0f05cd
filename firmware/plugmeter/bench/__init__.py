"""Measurements of Plugmeter itself and of other listeners, against each other in the same run."""
