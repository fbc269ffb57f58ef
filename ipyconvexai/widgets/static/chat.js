// The chat panel's page. The kernel says what there is (see talk.py); this draws it, and says what people do.
// Text goes in as text. HTML comes from the kernel's render/, which made it safe, and where the browser can, it makes
// it safe once more.

const STRICT = { sanitizer: { removeElements: ["style", "form", "input", "button", "textarea", "select", "img"] } };

function setHtml(element, html) {
  if (element.setHTML) element.setHTML(html, STRICT);
  else element.innerHTML = html;
}

function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function copyButton(textOf) {
  const button = make("button", { type: "button", className: "ai-copy", textContent: "Copy" });
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(textOf());
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
  return button;
}

class Message {
  constructor(role) {
    this.role = role;
    this.body = make("div", { className: "ai-body" });
    this.foot = make("div", { className: "ai-foot" });
    const name = role === "user" ? "You" : "Assistant";
    this.element = make("article", { className: `ai-message ai-${role}`, "aria-label": name }, this.body, this.foot);
  }

  show(told) {
    this.element.dataset.status = told.status;
    if (told.role === "user") {
      this.body.textContent = told.text;
      return;
    }
    while (this.body.children.length > told.keep) this.body.lastElementChild.remove();
    for (const html of told.blocks) this.body.append(this.block(html));
    const open = told.status === "pending" || told.status === "streaming";
    this.element.setAttribute("aria-busy", String(open));
    const foot = told.foot ? [told.foot] : [];
    if (told.note) foot.push(make("p", { className: told.note.error ? "ai-failed" : "ai-note", textContent: told.note.text }));
    if (!open && this.body.children.length) foot.push(copyButton(() => this.body.innerText));
    this.foot.replaceChildren(...foot);
  }

  block(html) {
    const block = make("div", { className: "ai-block" });
    setHtml(block, html);
    for (const link of block.querySelectorAll("a")) link.target = "_blank";
    for (const code of block.querySelectorAll("pre")) {
      code.tabIndex = 0; // what scrolls can be reached with the keyboard
      code.before(copyButton(() => code.innerText));
    }
    return block;
  }
}

function render({ model, el }) {
  const messages = new Map();
  const state = model.get("state");
  const log = make("div", { className: "ai-log", role: "log", "aria-live": "polite", "aria-label": "Messages", tabIndex: 0 });
  const status = make("div", { className: "ai-status", role: "status" });
  const banner = make("div", { className: "ai-banner", role: "alert", hidden: true });
  const input = make("textarea", { rows: 1, placeholder: "Ask something", "aria-label": "Message" });
  const send = make("button", { type: "submit", className: "ai-send", textContent: "Send" });
  const stop = make("button", { type: "button", className: "ai-stop", textContent: "Stop", title: "Stop the answer (Esc)", hidden: true });
  const form = make("form", { className: "ai-compose" }, input, stop, send);
  const root = make(
    "section",
    { className: "ai-chat", "aria-label": `Chat: ${state.title}`, "data-lm-suppress-shortcuts": "true", "data-jp-suppress-context-menu": "" },
    make("header", { className: "ai-head" }, make("h2", { textContent: state.title })),
    log, status, banner, form,
  );

  const say = (said) => model.send(said);
  const isWriting = () => [...messages.values()].some((one) => ["pending", "streaming"].includes(one.element.dataset.status));

  function told(updates) {
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    for (const update of updates) {
      if (update.kind === "message") {
        let message = messages.get(update.id);
        if (!message) {
          message = new Message(update.role);
          messages.set(update.id, message);
          log.append(message.element);
        }
        message.show(update);
      } else if (update.kind === "order") {
        for (const [id, message] of messages) {
          if (!update.ids.includes(id)) {
            message.element.remove();
            messages.delete(id);
          }
        }
        update.ids.forEach((id, at) => {
          const element = messages.get(id)?.element;
          if (element && log.children[at] !== element) log.insertBefore(element, log.children[at] ?? null);
        });
      }
    }
    stop.hidden = !isWriting();
    status.textContent = stop.hidden ? "" : "The answer is being written.";
    if (atEnd) log.scrollTop = log.scrollHeight;
  }

  // Messages may come faster than the page is drawn: what has come by then is drawn at once.
  let waiting = [];
  function hear(message) {
    if (message.kind === "error") {
      banner.textContent = message.text;
      banner.hidden = false;
    } else if (message.kind === "told") {
      if (!waiting.length) requestAnimationFrame(() => told(waiting.splice(0)));
      waiting.push(...message.updates);
    }
  }

  function submit() {
    const text = input.value;
    if (!text.trim()) return;
    banner.hidden = true;
    input.value = "";
    grow();
    say({ kind: "send", text });
  }

  function grow() {
    input.style.height = "auto";
    input.style.height = `${Math.min(input.scrollHeight, 240)}px`;
  }

  form.addEventListener("submit", (event) => { event.preventDefault(); submit(); });
  stop.addEventListener("click", () => say({ kind: "stop" }));
  input.addEventListener("input", grow);
  input.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
    event.preventDefault();
    submit();
  });
  root.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !stop.hidden) say({ kind: "stop" });
    event.stopPropagation(); // Shift+Enter would run the cell
  });

  // The next output holds the transcript, for when this panel is gone.
  function hideTranscript() {
    const output = el.closest(".jp-OutputArea-child")?.nextElementSibling;
    if (output) output.style.display = "none";
  }

  model.on("msg:custom", hear);
  el.append(root);
  say({ kind: "hello" });
  hideTranscript();
  const outputs = new MutationObserver(hideTranscript);
  requestAnimationFrame(() => {
    const area = el.closest(".jp-OutputArea");
    if (area) outputs.observe(area, { childList: true });
    hideTranscript();
  });
  return () => {
    outputs.disconnect();
    model.off("msg:custom", hear);
  };
}

export default { render };
