"""The review page: people settle doubtful labels in the browser, and `refine` learns from their answers."""
