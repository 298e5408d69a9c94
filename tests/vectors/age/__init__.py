"""The age format against the vectors of its authors."""
