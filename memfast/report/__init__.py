"""Reports: one HTML file with its pictures and charts inside, for people."""

from memfast.report.report import Report

__all__ = ["Report"]
