"""The queues, one module each with the `WorkerSettings` that the arq command runs."""
