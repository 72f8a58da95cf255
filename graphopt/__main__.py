"""The `graphopt` command, and `python -m graphopt`: Ctrl-C is silent also while the command line is imported."""

import sys


def main() -> None:
    """Run the command line; the process ends with its exit code."""
    try:
        from .cli import main as run
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted; nothing was left half-written\n")
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
