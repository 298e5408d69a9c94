"""The real program killed at every failpoint; no acknowledged byte may be lost."""
