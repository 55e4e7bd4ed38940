"""From votes to labels: voters, the label model that combines them, and what is done with each clip's label."""
