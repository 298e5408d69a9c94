"""Tests of storage.files."""
