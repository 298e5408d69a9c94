"""The rules of dropoff-tus: tus messages, decisions, drop-off policy and the ports.

Pure: no I/O, clock or randomness.
"""
