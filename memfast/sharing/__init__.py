"""A compact model on disk and among others."""
