"""Capture: from a running model, or its configuration, to the shapes that tasks are judged on.

`matching.match` says which task an op is a call of, `traffic.simulate` what batches a server runs, `recorder.Recorder` watches a
program, `rows.rows` makes the lines of a ``workloads.jsonl``.
"""
