"""Tests of server.usecases.operating."""
