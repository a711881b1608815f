"""The exception for everything that a user can get wrong: a path, a column, a number.

Its message says what was given, what was expected and what to do next. Commands print only the message and exit with
code 2. Any other exception is a bug of this library and keeps its traceback.
"""

import difflib


class UserError(ValueError):
    """A mistake in the user's input. The message has at most five lines."""


def nearest(given: str, choices: list[str], dashes: str = "") -> str:
    """`; did you mean X?`, or "" if no choice is similar. Paths also match by their last part alone."""
    tails = {choice.rpartition(".")[2]: choice for choice in reversed(choices)}
    tail = given.rpartition(".")[2]
    alike = [tails[tail]] if tail in tails else difflib.get_close_matches(given, choices, n=1)
    near = alike or [tails[name] for name in difflib.get_close_matches(tail, list(tails), n=1)]
    return f"; did you mean {dashes}{near[0]}?" if near else ""
