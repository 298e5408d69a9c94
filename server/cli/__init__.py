"""The command line: `dropoff-tus`."""

from server.cli.main import main

__all__ = ["main"]
