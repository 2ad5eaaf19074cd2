"""A bundle, or a recipe, on held-out micrographs: figures and how sure they are."""
