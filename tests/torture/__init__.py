"""What the product promises under faults and attack, at full count: `python -m tests.torture`. See runs.py."""
