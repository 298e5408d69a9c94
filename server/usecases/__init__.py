"""The use cases over the ports: what the server, the API and the commands do."""
