"""Whether this PC is fit, and an archive for whoever helps; by the standard library alone."""
