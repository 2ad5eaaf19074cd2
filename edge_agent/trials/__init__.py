"""What the self-test tries on a PC."""
