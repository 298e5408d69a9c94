"""The helpers that could make other tests pass for nothing."""
