"""Exit codes of every command."""

DONE, FAILED, USAGE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143
"""Done · failed · wrong usage · interrupted by Ctrl-C (128 + SIGINT) · terminated by SIGTERM (128 + 15), not done."""
