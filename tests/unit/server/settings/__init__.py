"""Tests of server.settings."""
