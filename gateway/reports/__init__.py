"""What is told about it: metrics and decision records."""
