"""Memory operations: pairs of pure functions build and parse."""
