"""A whole server as a release left it, opened by the present program."""
