"""The parts of `server` that need neither a socket nor a store."""
