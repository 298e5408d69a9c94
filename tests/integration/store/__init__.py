"""One suite for the store port, on the real store and on the one in memory that use-case tests run on."""
