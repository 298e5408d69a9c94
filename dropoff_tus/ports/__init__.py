"""The ports: what the use cases need of a store, a catalog and a clock. `storage` implements them, tests simulate them.

The contract lives here; an implementation documents only where it differs. All errors are `dropoff_tus.errors`.
Times are aware UTC datetimes, sizes are bytes, offsets are durable plaintext bytes.
"""
