"""What an audit looks at: probes, taps and scores."""
