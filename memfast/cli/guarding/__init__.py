"""Commands about the guard."""
