"""Generated long-context tasks."""
