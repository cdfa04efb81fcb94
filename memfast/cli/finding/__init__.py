"""Commands that find what a model holds, and where."""
