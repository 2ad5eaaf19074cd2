"""What the configuration is made of: its keys, their places in a file, what is said of a wrong one."""
