"""Tests of the template: what it asks, what it renders, and that the result works."""
