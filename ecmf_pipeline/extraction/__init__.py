"""From clips to feature stores: what is missing, and the one decode that feeds every media branch."""
