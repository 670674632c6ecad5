"""The one exception that a user can cause."""

from __future__ import annotations


class StarError(ValueError):
    """Bad input, told in one sentence: what was seen, what is allowed, how to mend it.

    The command line prints the sentence and exits with status 2.
    """
