"""Loading pipelines, telling them apart, and driving them."""
