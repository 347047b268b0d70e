"""The least that asking can cost: a bare HTTP client, or the openai SDK alone.

    python floor.py FOLDER URL IN_FLIGHT OUT [--sdk]

The bare client has a thread and a connection for each call in flight, sends JSON and reads it,
and asks again half a second after a refusal. The SDK is one AsyncOpenAI with a semaphore, its
retries as they come. OUT: {"seconds" (from the first question to the last answer), "rows"
(questions rightly answered)}. Nothing is stored.
"""

from __future__ import annotations

import asyncio
import json
import queue
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.collectors import job
else:  # a script finds its neighbours so
    import job


def main() -> None:
    parser = job.parser(__doc__)
    parser.add_argument("--sdk", action="store_true")
    args = parser.parse_args()
    questions = job.questions(args.folder)
    ask = with_sdk if args.sdk else bare
    seconds, answers = ask(questions, args.url, args.in_flight)
    rows = job.right(questions, answers)
    args.out.write_text(json.dumps({"seconds": seconds, "rows": rows}))


def body(question: dict[str, Any]) -> dict[str, Any]:
    messages = [{"role": "user", "content": question["text"]}]
    settings = {"max_tokens": 1024, "temperature": 0.3, "top_p": 0.95, "seed": question["number"]}
    return {"model": "fake", "messages": messages, **settings}


def bare(questions: list[dict[str, Any]], url: str, in_flight: int) -> tuple[float, dict[int, str]]:
    """Seconds, and the answers by number."""
    import httpx2

    todo: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    for question in questions:
        todo.put(question)
    answers: dict[int, str] = {}
    tls = httpx2.create_ssl_context()  # never used, and dear to make for each

    def work() -> None:
        with httpx2.Client(verify=tls, timeout=300) as client:
            while True:
                try:
                    question = todo.get_nowait()
                except queue.Empty:
                    return
                reply = client.post(f"{url}/chat/completions", json=body(question))
                while reply.status_code != 200:
                    time.sleep(0.5)
                    reply = client.post(f"{url}/chat/completions", json=body(question))
                answers[question["number"]] = reply.json()["choices"][0]["message"]["content"]

    threads = [threading.Thread(target=work) for _ in range(in_flight)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began, answers


def with_sdk(
    questions: list[dict[str, Any]], url: str, in_flight: int
) -> tuple[float, dict[int, str]]:
    """Seconds, and the answers by number; a question that the SDK gives up has none."""
    import openai

    answers: dict[int, str] = {}

    async def ask_all() -> float:
        client = openai.AsyncOpenAI(api_key="x", base_url=url)
        room = asyncio.Semaphore(in_flight)

        async def ask(question: dict[str, Any]) -> None:
            async with room:
                try:
                    reply = await client.chat.completions.create(**body(question))
                except openai.APIError:
                    return
            answers[question["number"]] = reply.choices[0].message.content or ""

        began = time.perf_counter()
        await asyncio.gather(*(ask(q) for q in questions))
        return time.perf_counter() - began

    return asyncio.run(ask_all()), answers


if __name__ == "__main__":
    main()
