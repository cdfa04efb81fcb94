"""What a command takes on a model of any size, before its weights are read."""
