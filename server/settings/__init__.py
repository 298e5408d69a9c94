"""The configuration: its keys, their sources, and their meaning."""
