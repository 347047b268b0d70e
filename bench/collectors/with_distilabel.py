"""distilabel's text generation, in a process of its own and its own environment.

    python with_distilabel.py FOLDER URL IN_FLIGHT OUT

Its calls in flight are its batch; its cache is off, its retries are as they come. OUT:
{"seconds" (of its call), "rows" (questions rightly answered), "error" (None, or what its call
raised)}.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.collectors import job
else:  # a script finds its neighbours so
    import job


def main() -> None:
    args = job.parser(__doc__).parse_args()
    os.environ |= {"HOME": str(args.folder), "HF_HUB_OFFLINE": "1", "DISTILABEL_LOG_LEVEL": "ERROR"}
    args.out.write_text(json.dumps(collect(args)))


def collect(args: argparse.Namespace) -> dict[str, Any]:
    from distilabel.models import OpenAILLM  # type: ignore[import-not-found]
    from distilabel.pipeline import Pipeline  # type: ignore[import-not-found]
    from distilabel.steps import LoadDataFromDicts  # type: ignore[import-not-found]
    from distilabel.steps.tasks import TextGeneration  # type: ignore[import-not-found]

    questions = job.questions(args.folder)
    began = time.perf_counter()
    answers: dict[int, str] = {}
    error = None
    try:
        with Pipeline(cache_dir=str(args.folder / "distilabel")) as pipeline:
            load = LoadDataFromDicts(
                data=[{"number": q["number"], "instruction": q["text"]} for q in questions],
                batch_size=args.in_flight,
            )
            teacher = OpenAILLM(
                model="fake",
                base_url=args.url,
                api_key="x",
                generation_kwargs={"max_new_tokens": 1024, "temperature": 0.3, "top_p": 0.95},
            )
            generate = TextGeneration(llm=teacher, input_batch_size=args.in_flight)
            load >> generate
        found = pipeline.run(use_cache=False)
        answers = {row["number"]: row["generation"] for row in found["default"]["train"]}
    except Exception as e:
        error = f"{type(e).__name__}: {e}"[:300]
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "rows": job.right(questions, answers), "error": error}


if __name__ == "__main__":
    main()
