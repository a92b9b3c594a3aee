"""`python -m lesson_utils.experiments`: see `--help`."""

from .command_line import main

main()
