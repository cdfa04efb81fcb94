"""What an audit keeps on disk."""
