"""The commands of edge-trainer: options, and which function of the trainer does the work."""
