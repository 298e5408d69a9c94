"""One suite for the catalog port, run on every database, and what is particular to each."""
