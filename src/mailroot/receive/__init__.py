"""The front door: sessions, Pickup and listeners hand what comes in to the queue."""
