"""Faults with real processes: servers, workers and connections that end, hang and fill up.

`make faults` runs the suite in an installed render, and `FAULTS=full make faults` with the full
counts. It is not part of `make test`.
"""
