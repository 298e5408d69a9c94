"""Coverage-guided fuzzing, run by hand: see `__main__`."""
