-- name: chats
-- description: what a conversation's answers are made with, what goes along with a message, the calls of tools.

ALTER TABLE conversations ADD COLUMN model VARCHAR;  -- provider:model of its answers; NULL: whatever the default is
ALTER TABLE messages ADD COLUMN attachments VARCHAR; -- JSON: what goes along with it: [{"kind", "name", "text" or "data"}]
ALTER TABLE messages ADD COLUMN tool_call VARCHAR;   -- JSON, of role tool: {"id", "name", "arguments", "safe"}
