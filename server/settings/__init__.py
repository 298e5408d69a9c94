"""The configuration: what may stand in it, where it comes from, and what it means."""
