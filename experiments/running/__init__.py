"""Stages: in what order, where and how they are trained, and the folder each leaves behind.

`plan` says what runs, `engine` runs each stage once, `training` fits and tests one, `manifest` is what it leaves.
`pool` and `cluster` run many at a time; `needs`, `preconditions`, `cost`, `pace` and `dry` tell beforehand what a run
takes.

Door: plan.plan, engine, hits, pool.Pool, cluster.open_cluster, manifest.finished, dry.DryRun.
"""
