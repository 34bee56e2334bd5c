"""Errors that the user sees as one sentence; any other exception is a defect and keeps its traceback."""


class ReportedError(Exception):
    """An error that can be expected; the message says what is wrong and what would help.

    `argument` names the argument of the called function that would help, if one would, or its key in a configuration:
    `overwrite`, `data.path`. It includes a value where only that one would: `resume=auto`. A command line can say which
    of its options that is.
    """

    def __init__(self, message: str, argument: str | None = None) -> None:
        super().__init__(message)
        self.argument = argument


class UsageError(ReportedError, ValueError):
    """Something that was given or asked for can't be used; the message names it."""


class ForeignFileError(UsageError):
    """The images are in a form that can't be read here; converting them to a `.beton` may help."""


class MissingError(UsageError):
    """A package or a companion file is missing; what was given may be in order."""


class RunError(ReportedError, RuntimeError):
    """Something failed on the way: a device, a disk, a process, an image."""


class DeadWorkerError(RunError):
    """A worker process died; the message names the image it was working on. Fewer workers take less memory."""


class DeadLoaderWorkerError(DeadWorkerError):
    """A loader's worker process died, which smaller batches may help as well."""


class ImageError(RunError):
    """An image can't be decoded. The message names it and says why."""


class RawRecordError(ValueError):
    """A record that is stored as pixels was asked for its encoded bytes."""
