"""The eight simulated materials of the walk-through."""
