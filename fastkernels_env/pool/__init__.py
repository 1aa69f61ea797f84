"""Several judges of one device, each in a process of its own; one at a time measures, while the others are stopped."""
