"""Commands that make another model of a model."""
