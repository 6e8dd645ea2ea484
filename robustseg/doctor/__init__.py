"""``robustseg doctor``: is this machine, or this job, fit to train on?"""

from robustseg.doctor.command import doctor
from robustseg.doctor.findings import Finding

__all__ = ["Finding", "doctor"]
