"""Command line: runs one of the commands; every mistake of the user's is one sentence and exit code 2.

A command is one line of `COMMANDS` and one file in commands/, which has the command's name, with underscores, and holds
`run(arguments, prog) -> exit code`. It imports what it needs when it runs, so that `simsiam --help` doesn't wait for
torch.
"""

import importlib
import io
import os
import signal
import sys
import warnings
from collections.abc import Sequence

from rich.console import Console

from simsiam.pipeline.errors import ForeignFileError, ReportedError, RunError, UsageError
from simsiam.train.interruption import Interrupted, Terminated, end_at_second_signal, terminate
from simsiam.train.launcher import speaks_for_its_machine
from simsiam.train.terminal.exit_codes import DONE, FAILED, INTERRUPTED, TERMINATED, USAGE
from simsiam.train.terminal.suggestion import nearest
from simsiam.train.terminal.words import on_one_line

COMMANDS: dict[str, str] = {
    "doctor": "what this machine has, what is missing, and how to get it",
    "demo": "the whole job in a few minutes, on images made for it",
    "convert": "image folder or archives → .beton",
    "verify": "decode everything, list what is broken",
    "preview": "originals, crops and augmented views side by side",
    "pretrain": "train an encoder: the main job",
    "evaluate knn": "accuracy of nearest neighbours in a frozen encoder's features",
    "bench loader": "images per second of the loader backends",
    "bench convert": "images per second of convert, next to FFCV's own writer",
    "bench step": "a training step, stage by stage, next to the usual one",
    "bench train": "training from images to weights, next to the usual one",
    "bench kernels": "what the fused operations take, checked first",
    "plot": "curves of one or several runs as PNG",
}
"""Every command by its one or two words, in the order a newcomer meets them, with its line in `simsiam --help`."""


def main() -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 terminated."""
    signal.signal(signal.SIGTERM, terminate)
    end_at_second_signal()
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return the exit code."""
    warnings.showwarning = _show_warning
    for stream in (sys.stdout, sys.stderr):
        # File names and characters such as → must not end a run if the terminal or the file has no UTF-8.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    words = list(arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        _print_commands()
        return DONE if words else USAGE
    if words[0] == "--version":
        from simsiam.train.environment import package_version

        print(f"simsiam {package_version('simsiam')}")
        return DONE
    # A command is one or two words: `pretrain`, `evaluate knn`.
    name = next((name for name in (" ".join(words[:2]), words[0]) if name in COMMANDS), None)
    try:
        if name is None:
            raise UsageError(_unknown_command(words[0]))
        return run_command(name, words[len(name.split()) :])
    except SystemExit as stop:  # after a command's help
        return stop.code if isinstance(stop.code, int) else USAGE
    except Terminated as stop:
        return _fail(_with_notes("terminated", stop), TERMINATED)
    except KeyboardInterrupt as stop:
        return _fail(_with_notes(str(stop) or "interrupted", stop), INTERRUPTED)
    except Interrupted as stop:
        return _fail(_with_notes(str(stop), stop), INTERRUPTED if stop.signal_number == signal.SIGINT else DONE)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        told = _told(error)
        if told is None or "SIMSIAM_TRACEBACK" in os.environ:
            raise
        return _fail(_with_notes(told[0], error), told[1])


def run_command(name: str, arguments: Sequence[str]) -> int:
    """Run a command with its arguments and return the exit code."""
    module = importlib.import_module(f"simsiam.train.commands.{name.replace(' ', '_').replace('-', '_')}")
    return module.run(arguments, prog=f"simsiam {name}")


def _told(error: Exception) -> tuple[str, int] | None:
    """Return message and exit code of an error that can be expected; None for a defect, which keeps its traceback."""
    if isinstance(error, UsageError):
        return str(error), USAGE
    if isinstance(error, RunError):
        return str(error), FAILED
    if isinstance(error, OSError):
        # Without Python's error number, and without quotes around the name.
        reason = error.strerror or str(error)
        return f"{error.filename}: {reason}" if error.filename else reason, FAILED
    if _is_out_of_memory(error):
        return "The GPU's memory is too small for this.", FAILED
    return None


def _is_out_of_memory(error: BaseException) -> bool:
    torch = sys.modules.get("torch")  # not imported for this check alone
    return torch is not None and isinstance(error, torch.OutOfMemoryError)


def _with_notes(message: str, error: BaseException) -> str:
    """Return the message, the notes added to the error, and the command or the option that would help, if one would."""
    from simsiam.train.terminal.arguments import option_for

    notes = list(getattr(error, "__notes__", []))
    if isinstance(error, ForeignFileError):
        notes.append("simsiam convert SOURCE OUT.beton converts them.")
    if isinstance(error, ReportedError) and (option := option_for(error.argument)):
        notes.append(f"the option is {option}.")
    if _is_out_of_memory(error) and (option := option_for("batch_size")):
        notes.append(f"a smaller {option} needs less.")
    return "; ".join([message.removesuffix("."), *notes]) if notes else message


def _fail(message: str, code: int) -> int:
    # All processes that were started on a machine make the same mistake: only one reports it.
    if code != USAGE or speaks_for_its_machine():
        print(f"simsiam: {on_one_line(message)}", file=sys.stderr)
    return code


def _show_warning(message, category, *_: object) -> None:
    # Our own warnings are for the user; those of libraries keep their category, to tell them apart.
    prefix = "" if category is UserWarning else f"{category.__name__}: "
    print(f"simsiam: warning: {prefix}{on_one_line(str(message))}", file=sys.stderr)


def _unknown_command(word: str) -> str:
    second_words = [name.split()[1] for name in COMMANDS if name.startswith(f"{word} ")]
    if second_words:
        return f"`simsiam {word}` needs one of: {', '.join(second_words)}."
    name = nearest(word, ("--version", "--help") if word.startswith("-") else COMMANDS)
    suggestion = f" Did you mean {name}?" if name else ""
    what = "option" if word.startswith("-") else "command"
    return f"There is no {what} {word!r}.{suggestion} Run simsiam --help for the list."


def _print_commands() -> None:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:{width}}  {summary}" for name, summary in COMMANDS.items())
    Console().print(
        "Pretrain an image encoder with SimSiam.\n\nusage: simsiam COMMAND [options]\n\n"
        f"{commands}\n\nsimsiam COMMAND --help explains a command; --version prints the version.",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    main()
