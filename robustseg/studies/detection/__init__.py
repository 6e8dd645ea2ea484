"""The study of detectors of adversarial images, and of attacks that know of them."""

from robustseg.studies.detection.study import Detection

__all__ = ["Detection"]
