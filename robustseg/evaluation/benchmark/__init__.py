"""Benchmarks of a model, as run by ``robustseg evaluate``: with shards, continuation and checks of the results."""

from robustseg.evaluation.benchmark.module import EvaluationModule
from robustseg.evaluation.benchmark.plan import Benchmark, Shard
from robustseg.evaluation.benchmark.run import merge, run_benchmark

__all__ = ["Benchmark", "EvaluationModule", "Shard", "merge", "run_benchmark"]
