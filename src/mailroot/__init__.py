"""Mailroot: an SMTP relay for programs that only speak plain SMTP.

The way of a message is told in docs/flow.md; the rooms of the code are named after its steps.
"""

__version__ = "0.1.0"
