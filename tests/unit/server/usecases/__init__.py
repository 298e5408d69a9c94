"""Tests of server.usecases."""
