"""Where `dropoff-tus` and `python -m server.cli` begin."""

import signal


def main() -> None:
    """Run the command line.

    The imports here take a while; until they are done Ctrl-C ends the process without a word.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from server.cli.main import main as run  # noqa: PLC0415 - see above

    run()


if __name__ == "__main__":
    main()
