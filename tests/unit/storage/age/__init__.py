"""The age file format."""
