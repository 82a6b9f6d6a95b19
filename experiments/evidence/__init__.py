"""From the metrics of stages to verdicts and records: intervals, rules, registrations, what is stale. No torch.

Door: results.read, results.put, verdicts.judge, registration.current, staleness.stale.
"""
