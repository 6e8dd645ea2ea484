"""The bill of a run before it runs: a few measured steps, and the hours, memory and shards that follow from them.

:mod:`~robustseg.planning.evaluation` plans evaluations and studies, :mod:`~robustseg.planning.training` trainings.
"""
