"""A guard inside a pipeline: it notices that an image is becoming a copy, and acts."""
