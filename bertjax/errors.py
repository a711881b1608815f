"""The one exception for mistakes that a user can mend.

Everything a person can get wrong (a path, a column, a number) ends in a `UserError` whose message says what was given,
what was expected and what to do next. The scripts print the message alone and leave with exit code 2; any other
exception is a defect of this library and keeps its traceback.
"""


class UserError(ValueError):
    """A mistake in what was given. The message is meant for the person who gave it: at most five lines."""
