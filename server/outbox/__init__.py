"""Delivery of what waits in the outbox: the loop, and what speaks to each sink."""
