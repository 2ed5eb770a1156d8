"""Suites of what a project ships: they run inside an installed render, by its own pytest."""
