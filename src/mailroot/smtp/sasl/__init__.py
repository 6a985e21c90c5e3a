"""SASL mechanisms for AUTH (RFC 4954), the client's side of each: what to say to which challenge."""
