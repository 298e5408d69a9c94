"""Tests of what runs the fuzzer."""
