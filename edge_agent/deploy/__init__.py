"""The agent as a service of the PC: under systemd, under Windows, with and without an administrator."""
