"""What the engine stands on, on local folders: the durable layer, layout, marker, marks, owner, threads."""
