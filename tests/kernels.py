"""A real kernel of this Python, and a client that keeps every message of a cell."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import KernelManager

import ipyconvexai
from ipyconvexai.testing import Endpoint

ROOT = Path(ipyconvexai.__file__).parents[1]
KEY = "sk-test-0123456789abcdef"
PATIENCE = 30.0  # seconds for one cell


class ThisPython(KernelSpecManager):
    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        return KernelSpec(resource_dir="", **get_kernel_dict())


@dataclass
class Result:
    """What a cell gave: its reply's status and payload, its messages in order."""

    status: str = ""
    payload: list[dict[str, Any]] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [message["content"] for message in self.messages if message["msg_type"] == kind]

    @property
    def frames(self) -> list[dict[str, str]]:
        """Every state of what was displayed, in order."""
        return [
            message["content"]["data"]
            for message in self.messages
            if message["msg_type"] in ("display_data", "update_display_data")
        ]

    @property
    def printed(self) -> str:
        return "".join(content["text"] for content in self.of("stream"))


class Kernel:
    """Runs cells, once it is `ready`; a cell may be begun, watched and interrupted."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._manager = KernelManager(kernel_spec_manager=ThisPython())
        self._manager.start_kernel(env=environment, cwd=str(ROOT))
        client = self._manager.client()
        assert isinstance(client, BlockingKernelClient)
        self._client = client
        self._client.start_channels()

    def ready(self) -> Kernel:
        """When it hears what is said to it."""
        self._client.wait_for_ready(timeout=PATIENCE)
        return self

    def begin(self, code: str, *, cell_id: str | None = None) -> str:
        """Send a cell as JupyterLab does; gives the request's id."""
        content = {"code": code, "silent": False, "store_history": True, "stop_on_error": False, "allow_stdin": False}
        message = self._client.session.msg("execute_request", {**content, "user_expressions": {}})
        message["metadata"] = {"cellId": cell_id} if cell_id else {}
        self._client.shell_channel.send(message)
        return str(message["header"]["msg_id"])

    def next(self, request: str) -> dict[str, Any]:
        """The next message of the cell. Raises Empty when none comes in time."""
        while True:
            message = self._client.get_iopub_msg(timeout=PATIENCE)
            if message["parent_header"].get("msg_id") == request:
                return message

    def end(self, request: str, result: Result | None = None) -> Result:
        """Wait for the cell's end."""
        result = result or Result()
        while True:
            message = self.next(request)
            result.messages.append(message)
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                break
        while (reply := self._client.get_shell_msg(timeout=PATIENCE))["parent_header"].get("msg_id") != request:
            pass
        result.status = reply["content"]["status"]
        result.payload = reply["content"].get("payload", [])
        return result

    def run(self, code: str, *, cell_id: str | None = None) -> Result:
        return self.end(self.begin(code, cell_id=cell_id))

    def until(self, request: str, kind: str, result: Result | None = None) -> Result:
        """Wait for a message of this kind; gives all that came."""
        result = result or Result()
        while not result.messages or result.messages[-1]["msg_type"] != kind:
            result.messages.append(self.next(request))
        return result

    def subshell(self) -> str:
        """A thread that hears what is said to it while a cell runs, as JupyterLab makes them."""
        message = self._client.session.msg("create_subshell_request", {})
        self._client.control_channel.send(message)
        reply = self._client.control_channel.get_msg(timeout=PATIENCE)
        return str(reply["content"]["subshell_id"])

    def click(self, button: str, subshell: str | None) -> None:
        """Press a button of ipywidgets, as a front end does: with a subshell, or as one that knows none."""
        data = {"method": "custom", "content": {"event": "click"}}
        message = self._client.session.msg("comm_msg", {"comm_id": button, "data": data})
        if subshell is not None:
            message["header"]["subshell_id"] = subshell
        self._client.shell_channel.send(message)

    def say(self, widget: str, content: dict[str, Any], subshell: str | None, *data: bytes) -> None:
        """What a page says to its widget, with bytes beside it if there are any."""
        data_of_it = {"method": "custom", "content": content}
        message = self._client.session.msg("comm_msg", {"comm_id": widget, "data": data_of_it})
        if subshell is not None:
            message["header"]["subshell_id"] = subshell
        self._client.session.send(self._client.shell_channel.socket, message, buffers=list(data))

    def interrupt(self) -> None:
        """SIGINT, as the button does."""
        self._manager.interrupt_kernel()

    def value(self, expression: str, *, within: float = 5.0, until: Any = None) -> str:
        """What the kernel prints for an expression; asked again until it is `until`."""
        ends = time.monotonic() + within
        while True:
            result = self.run(f"print({expression})")
            printed = result.printed.strip()
            if until is None or printed == until or time.monotonic() > ends:
                return printed
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL; it does not come back."""
        self._manager.signal_kernel(signal.SIGKILL)

    def close(self) -> None:
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=not self._manager.is_alive())
        self._manager.cleanup_resources()


def environment_for(endpoint: Endpoint | str, ledger: Path) -> dict[str, str]:
    """The tests' environment, with one provider in it (or its address), a ledger of its own, and this package."""
    own = ("IPYCONVEXAI_", "OPENAI_", "JPY_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(own) and "API_KEY" not in name}
    return clean | {
        "OPENAI_BASE_URL": endpoint if isinstance(endpoint, str) else endpoint.url,
        "OPENAI_API_KEY": KEY,
        "IPYCONVEXAI_MODEL": "openai:gpt-4o-mini",
        "IPYCONVEXAI_DB": str(ledger),
        "JPY_SESSION_NAME": "notebooks/tried.ipynb",
        "PYTHONPATH": str(ROOT),
    }


class Scripted(Endpoint):
    """Answers what `scripted` holds under the question's first line; anything else is echoed."""

    def __init__(self) -> None:
        self.scripted: dict[str, Any] = {}
        super().__init__(lambda call: self.scripted.get(call.prompt.split("\n")[0]), key=KEY)
