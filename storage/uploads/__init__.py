"""The engine: creating, appending, committing, finishing, reading, checking and recovering uploads."""
