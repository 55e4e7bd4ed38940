"""From votes to labels: voters, the models that combine them, and what is done with each clip's label."""
