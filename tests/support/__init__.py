"""Shared parts of tests: simulators, the fake clock, helpers to start programs."""
