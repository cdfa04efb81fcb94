"""Where a model's feed-forward blocks are, and how they are cut."""
