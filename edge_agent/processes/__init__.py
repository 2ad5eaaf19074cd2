"""What the supervisor is made of: one worker as a process, its limits, and whose fault an end is."""
