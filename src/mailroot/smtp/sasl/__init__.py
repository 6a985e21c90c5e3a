"""SASL mechanisms for AUTH (RFC 4954), both sides of each: what to say to which challenge, what an answer means.

Nothing here knows an account: who has the secrets calls these, and decides.
"""
