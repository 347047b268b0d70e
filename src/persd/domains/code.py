"""The code domain: a function under a header, judged by running it.

Prompts (``prompts``), the way back from a reply to a program (``parse``), and from a
program to the label under a prompt (``align``).
"""

from persd.domains.align import Misaligned, label
from persd.domains.names import undefined_names
from persd.domains.parse import Parsed, parse_reply
from persd.domains.prompts import (
    feedback,
    refine_prompt,
    shorten,
    task_prompt,
    teacher_closer,
    teacher_direct,
    teacher_refine,
    teacher_retry,
    teacher_shorter,
)

__all__ = [
    "Misaligned",
    "Parsed",
    "feedback",
    "label",
    "parse_reply",
    "refine_prompt",
    "shorten",
    "task_prompt",
    "teacher_closer",
    "teacher_direct",
    "teacher_refine",
    "teacher_retry",
    "teacher_shorter",
    "undefined_names",
]
