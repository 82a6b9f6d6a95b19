"""From the metrics of stages to verdicts and records: intervals, rules, registrations, what is stale. No torch.

- from values to a verdict: sequences (intervals), rules, joint, verdicts; words are what they may say.
- what a record holds: judged, ran, records; its file: layout, results; an entry's name: naming.
- how an entry comes about: assembly, merge, onward, restarts.
- what is fixed before a seed: registration, registrations, tuning; what comes after: replication.
- whether a record can be believed: order, statements, staleness.
- over several settings, papers or images: settings, suite, images.

Door: records, ran, judged (what a record holds), naming.title, assembly.build, results.read, results.update,
results.base, merge.put, verdicts.judge, registrations.describe, staleness.stale.
"""
