"""Proof: replication and quality metrics, extraction, attacks on embeddings, honest controls."""
