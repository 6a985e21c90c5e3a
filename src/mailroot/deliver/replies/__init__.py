"""What remote hosts say, explained: a table kept as data, and how a reply finds its entry."""
