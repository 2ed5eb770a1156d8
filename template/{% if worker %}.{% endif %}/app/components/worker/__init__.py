"""The background jobs: their tasks, and one arq worker per queue."""
