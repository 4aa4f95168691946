"""What one request asks for and what it was promised."""
