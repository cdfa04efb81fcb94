"""Everything that touches a diffusers model: where its feed-forwards are, tracing, surgery."""
