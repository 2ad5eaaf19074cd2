"""The models on this PC: taken in only when verified, one of them answers, the last good one at hand."""
