"""The store's format against stores and single uploads that are kept in the repository."""
