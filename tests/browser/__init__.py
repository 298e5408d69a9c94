"""The upload page in a real browser."""
