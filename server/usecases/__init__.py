"""The use cases over the ports: the acts of the server, the API and the commands."""
