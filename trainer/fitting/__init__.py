"""A data set -> a finished run: network, features, steps, what is recorded and shown of them."""
