"""What stops a command: one clear sentence for the person who ran it, never a traceback."""


class Problem(Exception):
    """Found something that stops the command; its text says what was found, what was expected, what to do."""
