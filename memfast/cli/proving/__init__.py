"""Commands that show what a treatment did."""
