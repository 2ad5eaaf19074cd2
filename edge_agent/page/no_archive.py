"""What is raised where the page has nothing to work on."""


class NoArchive(Exception):
    """No service runs at this moment, or a disk does not answer; the text says which."""
