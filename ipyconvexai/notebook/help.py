"""What ``%ai help`` says; also the magics' docstring. Imports nothing."""

__all__ = ["HELP"]

HELP = """\
Ask a model. Question and answer are in the ledger before you see them.

    %%ai [MODEL] [options]          the lines below are the question; the answer streams in as markdown
    %ai [options] QUESTION          the same on one line; --model NAME for a model

MODEL is provider:model, a provider, or a well-known model's name (`%ai list`). Without one: IPYCONVEXAI_MODEL, then
the first provider whose key is set, a running Ollama, or the small local model (`%ai doctor` says which and why).

    -s, --system TEXT               the system message
    -t, --temperature X             and --max-tokens N
    -m, --model-parameters JSON     other parameters of the provider's, as {"top_p": 0.9}
    -c, --conversation NAME         a durable conversation: earlier messages go along
    -o, --output NAME               the reply, with its text, usage and cost, into a variable
    -f, --format FORMAT             markdown (default), text, json, or code: the code alone goes into the next cell
    --replay off|reuse|only         whether a recorded answer may stand for a new one
    --no-stream                     show the answer when it is complete

{name}, {obj.attribute} and {Out[3]} in a question become the text of your variables; other braces stay as they are.

    %ai usage [--by GROUP]          calls, tokens, cost by model, provider, day, notebook, user, source or status
    %ai log [TEXT]                  the newest calls, or those that contain TEXT
    %ai list [PROVIDER]             models
    %ai model                       the model that is used where none is named, and why
    %ai doctor                      that, and all that was looked at
    %ai version, %ai help

    %ai run NAME [key=value ...]    a function of yours, or a built-in one; -o VARIABLE keeps its result
    %ai functions                   the functions that are defined, and their arguments
    %ai jobs [STATE]                scheduled functions: pending, in_progress, success, failed or canceled
    %ai cancel JOB_ID | CRON        a scheduled function, or what runs by the clock
    %ai crons                       what runs by the clock
    %ai limits                      limits and budgets, and what is used of them

A line that reads exactly like one of these is a command. Every other line is a question; so is what follows `--`."""
