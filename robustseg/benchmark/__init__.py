"""Benchmarks of a model that can be interrupted, shared by processes and trusted: what ``robustseg evaluate`` runs."""

from robustseg.benchmark.benchmark import Benchmark, Shard
from robustseg.benchmark.module import EvaluationModule
from robustseg.benchmark.run import merge, run_benchmark

__all__ = ["Benchmark", "EvaluationModule", "Shard", "merge", "run_benchmark"]
