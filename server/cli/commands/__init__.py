"""The commands, a module each: each translates its options, calls a use case, and prints what came of it."""
