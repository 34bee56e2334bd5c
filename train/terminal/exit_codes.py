"""Exit codes of every command."""

DONE, FAILED, USAGE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143
"""Did what was asked · broke on the way · was asked for something impossible · stopped by Ctrl-C (128 + SIGINT), or by
SIGTERM (128 + 15) with the work not done."""
