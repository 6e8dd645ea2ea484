"""Checks that a robustness figure can be trusted: experiments with the model, and ten flags on a result card."""

from robustseg.evaluation.checks.flags import Flag, Verdict, overall, trust_flags
from robustseg.evaluation.checks.probe import probe_model

__all__ = ["Flag", "Verdict", "overall", "probe_model", "trust_flags"]
