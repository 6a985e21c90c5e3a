"""The way out: route, hosts, security, connection, attempt; then reports, Drop and Badmail."""
