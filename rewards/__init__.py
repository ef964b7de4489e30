"""What it was worth: models of mid-term outcomes, their advantage over what was shown anyway, the objective."""
