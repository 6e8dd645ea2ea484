"""``robustseg doctor``: checks of a machine or a job before training."""

from robustseg.doctor.command import doctor
from robustseg.doctor.findings import Finding

__all__ = ["Finding", "doctor"]
