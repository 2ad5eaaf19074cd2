"""Events that are sent elsewhere, if and only if an address is configured."""
