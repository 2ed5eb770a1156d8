"""The parts that run."""
