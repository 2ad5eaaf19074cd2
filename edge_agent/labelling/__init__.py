"""What people say of micrographs: events, the file they stand in, who said what last."""
