"""From the metrics of stages to verdicts and records: intervals, rules, registrations, what is stale. No torch.

Door: records, ran, judged (what a record holds), results.read, results.update, results.base, merge.put, verdicts.judge,
registrations.describe, staleness.stale.
"""
