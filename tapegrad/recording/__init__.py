"""Recordings: functions recorded once, to be replayed and differentiated at other inputs."""

from tapegrad.recording.direct import Short, never
from tapegrad.recording.record import Unrecorded, record
from tapegrad.recording.recording import Recording

__all__ = ["Recording", "Short", "Unrecorded", "never", "record"]
