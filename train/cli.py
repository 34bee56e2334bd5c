"""Command line → one of the commands; every mistake of the user's is one sentence and exit code 2."""

import difflib
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from simsiam.train.commands import COMMANDS, DONE, FAILED, INTERRUPTED, USAGE
from simsiam.train.interruption import Interrupted


def main() -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return the exit code."""
    warnings.showwarning = _show_warning
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
            raise ValueError(_unknown_command(words[0]))
        return COMMANDS[name].run(words[len(name.split()) :])
    except SystemExit as stop:  # tyro's: help printed, or wrong options
        return stop.code if isinstance(stop.code, int) else USAGE
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except Interrupted as stop:
        return _fail(str(stop), INTERRUPTED if stop.signal_number == signal.SIGINT else DONE)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        code = _exit_code(error)
        if code is None or "SIMSIAM_TRACEBACK" in os.environ:
            raise
        return _fail(str(error), code)


def _exit_code(error: Exception) -> int | None:
    """Tell what the code raised on purpose from a defect, which keeps its traceback (None).

    Our own code raises ValueError for what a user can cause and RuntimeError for what broke on the way; raised
    anywhere else, they are defects.
    """
    from simsiam.pipeline.decode import ImageError

    if isinstance(error, OSError):
        return FAILED
    last_frame = [frame for frame, _ in traceback.walk_tb(error.__traceback__)][-1]
    # The package, not the module's name: that is `__main__` under `python -m simsiam.train.cli`.
    package = last_frame.f_globals.get("__package__") or ""
    if package.partition(".")[0] != "simsiam" and not isinstance(error, ImageError):
        return None
    if isinstance(error, (ImageError, RuntimeError)):
        return FAILED
    return USAGE if isinstance(error, ValueError) else None


def _fail(message: str, code: int) -> int:
    print(f"simsiam: {message}", file=sys.stderr)
    return code


def _show_warning(message, category, *_: object) -> None:
    # Our own warnings are for the user; a library's keep their name, so that it is clear who speaks.
    prefix = "" if category is UserWarning else f"{category.__name__}: "
    print(f"simsiam: warning: {prefix}{message}", file=sys.stderr)


def _unknown_command(word: str) -> str:
    second_words = [name.split()[1] for name in COMMANDS if name.startswith(f"{word} ")]
    if second_words:
        return f"`simsiam {word}` needs one of: {', '.join(second_words)}."
    nearest = difflib.get_close_matches(word, COMMANDS, n=1)
    suggestion = f" Did you mean {nearest[0]}?" if nearest else ""
    return f"There is no command {word!r}.{suggestion} Run simsiam --help for the list."


def _print_commands() -> None:
    console = Console()
    console.print(
        "Pretrain an image encoder with SimSiam.\n\nusage: simsiam COMMAND [options]\n", highlight=False, markup=False
    )
    table = Table.grid(padding=(0, 2))
    for name, command in COMMANDS.items():
        table.add_row(f"  {name}", command.summary)
    console.print(table)
    console.print("\nsimsiam COMMAND --help explains a command; --version prints the version.", highlight=False)


if __name__ == "__main__":
    main()
