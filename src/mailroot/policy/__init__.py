"""Plain decisions about a visit: who may connect, who may relay, how much. Rules answer; they never act."""
