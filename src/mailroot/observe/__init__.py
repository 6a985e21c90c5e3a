"""Subscribers to events, and nothing else: log, metrics, alerts."""
