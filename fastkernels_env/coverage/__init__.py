"""Which share of the architectures that transformers knows the tasks cover, and what to add next."""
