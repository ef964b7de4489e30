"""Did it help: ranking, off-policy estimators, rollouts in a world, experiments, report."""
