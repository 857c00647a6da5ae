"""Recordings: functions recorded once, to be replayed and differentiated at other inputs."""

from tapegrad.recording.direct import Short, never
from tapegrad.recording.in_numba import InNumba
from tapegrad.recording.known import Known, branches_of, known, known_with_keywords, on_values
from tapegrad.recording.loaded import from_bytes, load
from tapegrad.recording.record import Unrecorded, record
from tapegrad.recording.recording import Recording
from tapegrad.recording.standing import StandIn, behind
from tapegrad.recording.stats import Stats

__all__ = [
    "InNumba", "Known", "Recording", "Short", "StandIn", "Stats", "Unrecorded", "behind", "branches_of",
    "from_bytes", "known", "known_with_keywords", "load", "never", "on_values", "record",
]  # fmt: skip
