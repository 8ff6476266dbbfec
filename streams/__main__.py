"""`python -m streams`, and the command `calltide`: the command line, with Ctrl-C heard from the first moment.

A changer must know: importing the command line takes a part of a second, in which an exception would show a traceback,
or be lost inside an import. Until a command has begun there is nothing to clean up, so the process just ends.
"""

import os
import signal


def main() -> None:
    """Run the command line."""
    signal.signal(signal.SIGINT, _end_at_once)
    from streams import cli

    cli.main()


def _end_at_once(*_: object) -> None:
    os.write(2, b"calltide: stopped\n")
    os._exit(130)


if __name__ == "__main__":
    main()
