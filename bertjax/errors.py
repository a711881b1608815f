"""The one exception for mistakes that a user can mend.

Everything a person can get wrong (a path, a column, a number) ends in a `UserError` whose message says what was given,
what was expected and what to do next. The scripts print the message alone and leave with exit code 2; any other
exception is a defect of this library and keeps its traceback.
"""

import difflib


class UserError(ValueError):
    """A mistake in what was given. The message is meant for the person who gave it: at most five lines."""


def nearest(given: str, choices: list[str], dashes: str = "") -> str:
    """`; did you mean X?`, or nothing where nothing is near. A path may be meant by its last part alone."""
    tails = {choice.rpartition(".")[2]: choice for choice in reversed(choices)}
    tail = given.rpartition(".")[2]
    alike = [tails[tail]] if tail in tails else difflib.get_close_matches(given, choices, n=1)
    near = alike or [tails[name] for name in difflib.get_close_matches(tail, list(tails), n=1)]
    return f"; did you mean {dashes}{near[0]}?" if near else ""
