"""What the command line tells in one sentence; any other exception is a defect and keeps its traceback."""


class UsageError(ValueError):
    """Something the user gave or asked for can't be used; the message names it and the way out. Exit code 2."""


class ForeignFileError(UsageError):
    """A file is of another kind than what it was opened as. Exit code 2."""


class MissingError(UsageError):
    """A package or a companion file is missing; what the user gave may be in order. Exit code 2."""


class RunError(RuntimeError):
    """Something broke on the way that no other input would have prevented for sure. Exit code 1."""


class ImageError(RunError):
    """An image that can't be decoded. The message names it and says why."""


class RawRecordError(ValueError):
    """A record that holds pixels, asked for its encoded bytes."""
