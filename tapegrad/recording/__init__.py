"""Recordings: functions recorded once, to be replayed and differentiated at other inputs."""

from tapegrad.recording.recording import Recording, Unrecorded, on_tape, record

__all__ = ["Recording", "Unrecorded", "on_tape", "record"]
