"""The tasks, one module a subject: plain async functions that take arq's `ctx` first."""
