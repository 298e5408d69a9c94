"""The encrypted store, the leases and the catalog."""
