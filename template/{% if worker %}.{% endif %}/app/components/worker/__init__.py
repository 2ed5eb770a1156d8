"""The background jobs: their tasks, and one arq worker a queue."""
