"""Tests of storage.catalog without a database."""
