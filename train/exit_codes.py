"""Exit codes of every command."""

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
"""Did what was asked · broke on the way · was asked for something impossible · stopped by Ctrl-C (128 + SIGINT)."""
