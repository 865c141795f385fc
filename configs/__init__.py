"""Settings of experiments; the docstring of each holds the command and the expected result."""
