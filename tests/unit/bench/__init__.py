"""Tests of the bench's own arithmetic."""
