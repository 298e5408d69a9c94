"""Requests and answers: listeners, connections, and the handlers of each kind of client."""
