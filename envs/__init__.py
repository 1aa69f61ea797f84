"""The tasks: one folder each; its name is the environment id."""
