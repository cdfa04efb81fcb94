"""Rows of files and folders, whatever their format."""
