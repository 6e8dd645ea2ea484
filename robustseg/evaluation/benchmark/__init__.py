"""Benchmarks of a model that can be interrupted, shared by processes and trusted: what ``robustseg evaluate`` runs."""

from robustseg.evaluation.benchmark.module import EvaluationModule
from robustseg.evaluation.benchmark.plan import Benchmark, Shard
from robustseg.evaluation.benchmark.run import merge, run_benchmark

__all__ = ["Benchmark", "EvaluationModule", "Shard", "merge", "run_benchmark"]
