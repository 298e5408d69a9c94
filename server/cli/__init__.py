"""The command line: `dropoff-tus`."""
