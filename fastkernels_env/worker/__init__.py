"""The worker: the only code that shares a process with a submission. Imports nothing from the judge."""
