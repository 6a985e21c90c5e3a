"""The command line: `mailroot run`, and verbs that talk to the running service over its API."""
