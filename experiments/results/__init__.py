"""What the numbers of many runs mean: names, tables, summaries, claims and their tests."""
