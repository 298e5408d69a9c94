"""The tests: each folder says what kind it holds."""
