"""The base of the engine, on local folders: the durable layer, layout, marker, marks, owner, threads."""
