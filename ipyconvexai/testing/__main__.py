"""`python -m ipyconvexai.testing --latency 0.1`: an endpoint as a program.

Prints one line of JSON, {"url": ...}, and ends when its standard input does. The key it accepts, if any, comes from
the variable IPYCONVEXAI_TESTING_KEY.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys

from ipyconvexai.testing.child import KEY_VARIABLE
from ipyconvexai.testing.endpoint import Endpoint


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m ipyconvexai.testing", description="A model provider on loopback.")
    parser.add_argument("--reply", help="the text to answer; without it the endpoint echoes")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before the first byte")
    parser.add_argument("--token-delay", type=float, default=0.0, help="seconds between the tokens of a stream")
    parser.add_argument("--model", action="append", help="a model there is; may be repeated (default: all names)")
    parser.add_argument("--context", type=int, help="the most words a request may hold")
    parser.add_argument("--keep", type=int, default=0, help="how many requests to keep in memory")
    parser.add_argument("--log", help="a file to which each request is appended before it is answered")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    asked = parser.parse_args()
    endpoint = Endpoint(
        asked.reply,
        latency=asked.latency,
        token_delay=asked.token_delay,
        key=os.environ.get(KEY_VARIABLE),
        models=asked.model,
        context=asked.context,
        keep=asked.keep,
        port=asked.port,
    )
    if asked.log:
        endpoint.log(asked.log)
    with endpoint, contextlib.suppress(KeyboardInterrupt):
        print(json.dumps({"url": endpoint.url}), flush=True)
        sys.stdin.buffer.read()


if __name__ == "__main__":
    main()
