"""Known answers, stored in the repository, each with a named outcome."""
