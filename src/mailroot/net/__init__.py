"""Octets over TCP and TLS, listeners and DNS, on asyncio. Knows no SMTP."""
