"""How a route logs in to its hosts: passwords, and access tokens with whoever issues them."""
