"""Works on uploads beside the ports: checking them, rotating their keys, telling their history."""
