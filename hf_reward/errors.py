"""What goes wrong, in three kinds; the commands turn the kind into an exit code and print the text alone."""


class ConfigurationError(ValueError):
    """A recipe, a command line or an argument asks for something that cannot be done (exit code 2)."""


class DataError(ValueError):
    """A dataset, a file or a row is not what a preference dataset must be (exit code 2)."""


class RunError(RuntimeError):
    """A run that was asked for correctly could not be carried through (exit code 1)."""


class Stopped(SystemExit):
    """A run that was told to stop by SIGTERM, and did, with a checkpoint to go on from (exit code 143)."""

    def __init__(self) -> None:
        # 128 and the number of the signal, as shells count.
        super().__init__(143)
