"""What a bundle carries so that it knows when not to answer: temperature, novelty, limits, operating point."""
