"""bespokelabs-curator's online requests, in a process of its own and its own environment.

    python with_curator.py FOLDER URL IN_FLIGHT OUT

Its limits a minute are set out of reach, its cache, viewer and telemetry are off, its retries
are as they come. OUT: {"seconds" (of its call), "rows" (questions rightly answered), "error"
(None, or what its call raised)}.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.collectors import job
else:  # a script finds its neighbours so
    import job


def main() -> None:
    args = job.parser(__doc__).parse_args()
    # read when it is imported
    os.environ |= {
        "HOME": str(args.folder),
        "OPENAI_API_KEY": "x",
        "TELEMETRY_ENABLED": "false",
        "CURATOR_DISABLE_CACHE": "true",
        "CURATOR_DISABLE_RICH_DISPLAY": "1",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "HF_HUB_OFFLINE": "1",
        "TIKTOKEN_CACHE_DIR": str(encodings()),
    }
    os.environ.pop("CURATOR_VIEWER", None)
    args.out.write_text(json.dumps(collect(args)))


def encodings() -> Path:
    """The encodings that litellm brings along: what it counts tokens by is not fetched."""
    found = importlib.util.find_spec("litellm")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "litellm_core_utils" / "tokenizers"


def collect(args: argparse.Namespace) -> dict[str, Any]:
    from bespokelabs import curator  # type: ignore[import-not-found]

    questions = job.questions(args.folder)

    class Teacher(curator.LLM):  # type: ignore[misc]
        def prompt(self, row: dict[str, Any]) -> str:
            return str(row["text"])

        def parse(self, row: dict[str, Any], response: str) -> dict[str, Any]:
            return {"number": row["number"], "answer": response}

    began = time.perf_counter()
    answers: dict[int, str] = {}
    error = None
    try:
        teacher = Teacher(
            model_name="fake",
            backend="openai",
            generation_params={"max_tokens": 1024, "temperature": 0.3, "top_p": 0.95},
            backend_params={
                "base_url": args.url,
                "max_concurrent_requests": args.in_flight,
                "max_requests_per_minute": 10**8,
                "max_tokens_per_minute": 10**12,
            },
        )
        found = teacher(questions, working_dir=str(args.folder / "curator"))
        answers = {row["number"]: row["answer"] for row in found.dataset}
    except Exception as e:
        error = f"{type(e).__name__}: {e}"[:300]
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "rows": job.right(questions, answers), "error": error}


if __name__ == "__main__":
    main()
