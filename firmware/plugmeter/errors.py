"""What can go wrong, in the user's words.

Every error that a user can cause or mend is a ``PlugmeterError``. Its text is one line that says
what is wrong and how to mend it; ``cli.main`` prints it without a traceback and exits with
``exit_status``. Any other exception is a defect of ours and keeps its traceback.
"""

from __future__ import annotations


class PlugmeterError(Exception):
    """Something failed at run time: no permission, a missing part, a rig that died."""

    exit_status = 1


class UsageError(PlugmeterError):
    """The command line or the configuration cannot be what the user meant."""

    exit_status = 2


class RigError(PlugmeterError):
    """A rig cannot plug or pull: the run that depends on it is INVALID."""
