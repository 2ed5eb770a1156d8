"""The tasks, one module per subject: plain async functions that take arq's `ctx` first."""
