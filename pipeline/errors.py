"""Errors that the user sees as one sentence; any other exception is a defect and keeps its traceback."""


class UsageError(ValueError):
    """Something that was given or asked for can't be used; the message names it and says what would help.

    `argument` names the argument of the called function that would help, if one would: a command line can say which
    of its options that is.
    """

    def __init__(self, message: str, argument: str | None = None) -> None:
        super().__init__(message)
        self.argument = argument


class ForeignFileError(UsageError):
    """The images are in a form that can't be read here; converting them to a `.beton` may help."""


class MissingError(UsageError):
    """A package or a companion file is missing; what was given may be in order."""


class RunError(RuntimeError):
    """Something failed on the way: a device, a disk, a process, an image."""


class ImageError(RunError):
    """An image can't be decoded. The message names it and says why."""


class RawRecordError(ValueError):
    """A record that is stored as pixels was asked for its encoded bytes."""
