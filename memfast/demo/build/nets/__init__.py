"""The networks, and how they are trained."""
