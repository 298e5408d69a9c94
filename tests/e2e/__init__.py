"""The real program with real clients; nothing is patched."""
