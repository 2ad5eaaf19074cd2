"""What the journal is made of: the file, the questions put to it, and attempts at files."""
