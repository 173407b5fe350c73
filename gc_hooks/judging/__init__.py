"""From the evidence to a verdict: bounds, second thoughts, and the search for the wrong entries."""
