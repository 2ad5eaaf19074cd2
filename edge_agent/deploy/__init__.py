"""The agent as an installed, supervised, updatable thing: service, models in the field, offline package, doctor."""
