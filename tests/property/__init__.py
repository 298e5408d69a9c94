"""Hypothesis: properties of every input and every order of events."""
