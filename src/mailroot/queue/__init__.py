"""The store: a message is durable before its 250, counted before it is tried, settled after the answer."""
