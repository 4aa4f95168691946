"""What a proxy costs: the same mock backend asked directly and through gateways, side by side."""
