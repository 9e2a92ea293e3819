"""The base of every error this package raises on purpose.

An error's message is what the operator or the client reads: it says what happened, to what,
and what to do next. Subclasses live beside the code that raises them.
"""


class RegcachdError(Exception):
    """Something a person can act on went wrong."""
