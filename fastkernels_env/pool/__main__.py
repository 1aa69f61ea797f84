"""Run a pool's judge."""

from .member import main

main()
