"""The one exception that is meant for people."""


class CalltideError(Exception):
    """What went wrong and what to do about it, in one line: the command line prints it without a traceback."""
