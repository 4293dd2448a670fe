"""What every training record keeps, and is odd to break."""
