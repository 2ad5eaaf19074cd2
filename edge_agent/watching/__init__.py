"""What the watcher is made of: roots, listings, events, scans, and when a file counts as quiet."""
