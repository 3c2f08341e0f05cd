"""A run in a process of its own: its parent's end, its child's end, and the words between them.

The daemon loads ``parent``, ``drafts``, ``plans`` and ``proof``; what makes a run (``child`` and all below
``equipment``) is loaded by the child alone.
"""
