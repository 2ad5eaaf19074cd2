"""What a bundle needs to know when not to answer: limits, ranges, statistics."""
