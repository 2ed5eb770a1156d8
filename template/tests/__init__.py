"""The tests, which are also examples of how each part is used."""
