"""The loopback API over operations."""
