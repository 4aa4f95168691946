"""What is decided: admission, planning, and what they are learned from."""
