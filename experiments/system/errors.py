"""The one exception that a command turns into a sentence and exit code 2."""


class UserError(ValueError):
    """Something that the person at the keyboard can mend: one sentence, both values, the fix."""
