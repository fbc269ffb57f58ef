"""Functions that come with the package, as a Convex app has them: texts, chats, documents, limits, notices, batches.

They are written with what everybody has, ``import ipyconvexai as ai`` and ``ctx``, so they are examples, too. By
name they are ``ai.send_message`` and so on; ``ai.run("send_message", ...)``, ``%ai run`` and the command line find them
where no function of one's own has that name. Keys come from the environment: no function takes one. Floor 5.
"""

from __future__ import annotations

from ipyconvexai.actions import documents
from ipyconvexai.actions.batches import run_batch, tend_provider_batch
from ipyconvexai.actions.conversations import cancel_response, send_message, start_conversation
from ipyconvexai.actions.documents import process_with_ai
from ipyconvexai.actions.limits import check_rate_limit, generate_with_rate_limit, record_request
from ipyconvexai.actions.messages import load_messages
from ipyconvexai.actions.notices import notify_webhook, send_email
from ipyconvexai.actions.replies import generate_response, save_response
from ipyconvexai.actions.revising import (
    configure_conversation,
    delete_conversation,
    edit_message,
    fork_conversation,
    list_conversations,
    rename_conversation,
    retry_response,
)
from ipyconvexai.actions.texts import SafeFailure, SafeText, generate_text, generate_with_chef, safe_generate
from ipyconvexai.actions.tools import allow_call, continue_response, deny_call, run_call

__all__ = [
    "SafeFailure",
    "SafeText",
    "allow_call",
    "cancel_response",
    "check_rate_limit",
    "configure_conversation",
    "continue_response",
    "delete_conversation",
    "deny_call",
    "documents",
    "edit_message",
    "fork_conversation",
    "generate_response",
    "generate_text",
    "generate_with_chef",
    "generate_with_rate_limit",
    "list_conversations",
    "load_messages",
    "notify_webhook",
    "process_with_ai",
    "record_request",
    "rename_conversation",
    "retry_response",
    "run_batch",
    "run_call",
    "safe_generate",
    "save_response",
    "send_email",
    "send_message",
    "start_conversation",
    "tend_provider_batch",
]
