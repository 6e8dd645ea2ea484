"""Detection of adversarial images, and attacks that know of it."""

from robustseg.studies.detection.study import Detection

__all__ = ["Detection"]
