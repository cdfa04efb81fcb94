"""Metrics and cases: what is measured of images, and on which captions."""
