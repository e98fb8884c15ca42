"""What goes wrong, in three kinds; the commands turn the kind into an exit code and print the text alone."""


class ConfigurationError(ValueError):
    """A recipe, a command line or an argument asks for something that cannot be done (exit code 2)."""


class DataError(ValueError):
    """A dataset, a file or a row is not what a preference dataset must be (exit code 2)."""


class RunError(RuntimeError):
    """A run that was asked for correctly could not be carried through (exit code 1)."""
