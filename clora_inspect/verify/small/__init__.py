"""Small models that stand for the job's: fewer layers of the same kinds, or one layer of each."""
