"""From votes to labels: voters, the models that combine votes, and the decision on each clip's label."""
