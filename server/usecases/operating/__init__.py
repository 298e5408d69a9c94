"""The works that operators have done on many uploads at once; each first plans, or may be repeated after a kill."""
