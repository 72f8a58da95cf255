"""The `graphopt` command, and `python -m graphopt`: Ctrl-C is silent also while the command line is imported."""

import sys


def main() -> None:
    """Run the command line; the process ends with its exit code.

    A `build` that was answered before is answered without the command line: importing that takes longer.
    """
    words = sys.argv[1:]
    try:
        from .console import prepare

        prepare()
        if words[:1] == ["build"]:
            from .lookup import recall

            if recall(words):
                sys.exit(0)
        from .cli import main as run
    except KeyboardInterrupt as error:
        from .console import interrupted

        sys.exit(interrupted(error, "--json" in words))
    run()


if __name__ == "__main__":
    main()
