"""Stages: in what order, where and how they are trained, and the folder each leaves behind.

Door: plan.plan, engine, hits, pool.Pool, cluster.open_cluster, manifest.finished, dry.DryRun.
"""
