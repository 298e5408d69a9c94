"""HTTP, configuration, command line and wiring."""
