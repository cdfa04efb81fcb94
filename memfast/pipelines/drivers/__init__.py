"""A driver for each kind of pipeline, in one table."""
