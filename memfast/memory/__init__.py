"""What fits: portions of work that shrink when memory runs out, what is free, what a run takes."""
