"""What is settled before a machine runs: from the configuration to one plan."""
