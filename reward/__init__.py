"""The reward."""
