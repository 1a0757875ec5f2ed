"""What runs a network over data: the setup of a run, its loop over batches, and its processes."""
