"""SMTP itself, both sides, sans-IO (RFC 5321): bytes in, events out, answers in, bytes out.

No asyncio, no clock, no logging.
"""
