"""What tests share: simulators, the fake clock, helpers to start programs."""
