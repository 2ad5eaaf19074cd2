"""One archive for PCs without a network, and what is handed on with it."""
