"""What a score's values allow to be said: on references, on the list alone, or not at all."""
