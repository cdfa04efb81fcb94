"""Which neurons are to go."""
