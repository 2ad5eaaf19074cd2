"""The process of the live agent: one service after another, signs of life, what is logged."""
