"""The ports of the use cases: a store, a catalog and a clock. `storage` implements, tests simulate them.

The contract lives here; an implementation documents only where it differs. All errors are `dropoff_tus.errors`.
Times are aware UTC datetimes, sizes are bytes, offsets are durable plaintext bytes.
"""
