"""Tests of storage.keyring."""
