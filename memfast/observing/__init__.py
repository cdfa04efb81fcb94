"""What neurons do while a model runs."""
