"""Tests of storage.uploads."""
