"""Recordings: functions recorded once, to be replayed and differentiated at other inputs."""

from tapegrad.recording.record import Unrecorded, record
from tapegrad.recording.recording import Recording

__all__ = ["Recording", "Unrecorded", "record"]
