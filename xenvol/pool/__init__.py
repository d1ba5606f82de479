"""What one operation reads of a pool, how it changes the pool, and how it takes its changes back."""
