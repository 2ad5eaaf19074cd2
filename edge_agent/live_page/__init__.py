"""The page, health and metrics of the running agent, on this PC only."""
