"""The server's keys: where they come from, what they sign, and who may open what."""
