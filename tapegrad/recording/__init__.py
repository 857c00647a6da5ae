"""Recordings: functions recorded once, to be replayed and differentiated at other inputs."""

from tapegrad.recording.direct import never
from tapegrad.recording.record import Unrecorded, record
from tapegrad.recording.recording import Recording

__all__ = ["Recording", "Unrecorded", "never", "record"]
