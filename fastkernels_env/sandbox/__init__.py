"""Confine a process tree before it sees a submission: what stands between code that a model wrote and this machine.

`confine.start` forks one confined tree; `layers` names what holds it; `tree` looks at it, stops and ends it from outside; `watch` ends
what takes too much. Imports nothing of the rest of the package and nothing heavy, so that a compiler's process starts at once.
"""
