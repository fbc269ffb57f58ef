"""``df.ai``: there whichever library comes first, and the same as the public functions."""

from __future__ import annotations

import inspect
import subprocess
import sys
import textwrap

import pandas as pd
import polars as pl
import pytest

import ipyconvexai as ai
from ipyconvexai import accessors
from ipyconvexai.testing import Endpoint


@pytest.fixture(autouse=True)
def installed() -> None:
    accessors.install()


def run(code: str) -> str:
    """In a process of its own, where warnings are errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_frame_of_pandas_and_polars_is_summarised(app: ai.App, endpoint: Endpoint):
    frame = pd.DataFrame({"text": ["alpha", "beta"]})
    result = frame.ai.summarize("text", into="short", progress=False)
    assert list(result.columns) == ["text", "short", "short_error"]
    polars = pl.DataFrame({"text": ["alpha", "beta"]})
    assert polars.ai.summarize("text", into="short", progress=False).columns == list(result.columns)  # type: ignore[attr-defined]
    lazy = polars.lazy().ai.summarize("text", into="short", progress=False)  # type: ignore[attr-defined]
    assert isinstance(lazy, pl.LazyFrame)
    assert endpoint.count == 2


def test_help_and_completion_are_those_of_the_function():
    method = pd.DataFrame({"text": []}).ai.summarize
    wanted = list(inspect.signature(ai.summarize).parameters.values())[1:]
    assert list(inspect.signature(method).parameters.values()) == wanted
    assert method.__doc__ == ai.summarize.__doc__
    assert method.__name__ == "summarize"
    assert dir(pd.DataFrame().ai) == ["estimate", "map", "reduce", "summarize"]
    assert pd.DataFrame.ai.summarize is ai.summarize  # type: ignore[attr-defined]


ORDERS = {
    "libraries first": "import pandas, polars; from ipyconvexai import accessors; accessors.install()",
    "libraries later": "from ipyconvexai import accessors; accessors.install(); import pandas, polars",
    "installed twice": """
        from ipyconvexai import accessors; accessors.install(); import pandas; accessors.install(); import polars
        accessors.install()""",
    "a part of it first": """
        from ipyconvexai import accessors; accessors.install()
        import pandas.api.types
        from polars import DataFrame""",
    "in threads": """
        import threading; from ipyconvexai import accessors
        def both():
            import pandas, polars
        workers = [threading.Thread(target=target) for target in (both, accessors.install, both, accessors.install)]
        for worker in workers: worker.start()
        for worker in workers: worker.join()""",
    "one at a time, asked for before": """
        import importlib.util; from ipyconvexai import accessors; accessors.install()
        assert importlib.util.find_spec("pandas") is not None
        import polars, pandas""",
    "reloaded": """
        import importlib; from ipyconvexai import accessors; accessors.install()
        import pandas, polars; importlib.reload(accessors).install(); importlib.reload(pandas)""",
    "another finder that asks all": """
        import sys; from ipyconvexai import accessors
        class Other:
            def find_spec(self, name, path=None, target=None):
                for finder in sys.meta_path:
                    if finder is not self and (spec := finder.find_spec(name, path, target)): return spec
        accessors.install(); sys.meta_path.insert(0, Other())
        import pandas, polars""",
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_it_is_there_in_any_order(order: str):
    told = """
    import sys, pandas, polars
    kinds = pandas.DataFrame, polars.DataFrame, polars.LazyFrame
    print(*(kind({"text": []}).ai for kind in kinds), sep="|")
    print([finder for finder in sys.meta_path if "ipyconvexai" in type(finder).__module__])
    print(type(pandas.__loader__).__name__, vars(pandas.__loader__).get("exec_module"))
    """
    lines = run(textwrap.dedent(order) + textwrap.dedent(told)).splitlines()
    shown = "<ai: .summarize(...) .map(...) .reduce(...) .estimate(...)>"
    assert lines == ["|".join([shown] * 3), "[]", "SourceFileLoader None"]


def test_nothing_is_imported_for_it():
    code = """
    import sys; from ipyconvexai import accessors; accessors.install()
    print([name for name in sys.modules if name.partition(".")[0] in ("pandas", "polars", "inspect", "asyncio")])
    """
    assert run(code) == "[]"


def test_an_import_that_fails_fails_as_without_it_and_may_be_tried_again(tmp_path):
    (tmp_path / "pandas.py").write_text("import sys\nif not hasattr(sys, 'mended'): raise RuntimeError('broken')\n")
    code = f"""
    import sys; sys.path.insert(0, {str(tmp_path)!r})
    from ipyconvexai import accessors; accessors.install()
    try: import pandas
    except RuntimeError as error: print(error, "pandas" in sys.modules)
    sys.mended = True
    import pandas  # without a DataFrame: nothing to register with
    print(pandas.__file__)
    try: import polars.nothing
    except ImportError as error: print(type(error).__name__)
    """
    assert run(code).splitlines() == ["broken False", str(tmp_path / "pandas.py"), "ModuleNotFoundError"]
