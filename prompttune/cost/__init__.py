"""What a step costs, counted and measured before it is paid."""
