"""Qualify tasks: edit their seed solutions in every small way that makes them wrong, and see that the judge rejects each.

A seed is enumerated into mutations (`mutations`), a sample of them is judged without the clock (`runner`), and what survives is either
equivalent to the seed, with a reason in the task's ``equivalent.toml``, or a hole in the task's inputs or in the judge.
"""
