"""Detectors of the daemon's own illnesses: pure, over frozen samples. One module each."""
