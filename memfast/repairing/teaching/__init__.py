"""Teaching: what the original predicts, and that attacks are to find nothing."""
