"""The operators' API below /api/v1: HTTP and JSON around the same use cases as the command line's.

Source: docs/reference/api.md.
"""

from server.http.api.routes import add_routes

__all__ = ["add_routes"]
