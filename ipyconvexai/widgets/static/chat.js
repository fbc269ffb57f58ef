// The chat panel's page. The kernel says what there is (see talk.py); this draws it, and says what people do.
// Text and HTML go in through common.js, which stands before this.

const ONCE = new Set(["fork", "retry", "new", "delete"]);
const NO_ANSWER = "The kernel does not answer: it is busy, or away. What you wrote stands here still. If the kernel began anew: run the cell again to go on with this conversation.";

class Message {
  constructor(id, role, say, source) {
    this.id = id;
    this.source = source; // of a message, as it was written
    this.role = role;
    this.say = say;
    this.body = make("div", { className: "ai-body" });
    this.foot = make("div", { className: "ai-foot" });
    const name = role === "user" ? "You" : "Assistant";
    this.element = make("article", { className: `ai-message ai-${role}`, "aria-label": name }, this.body, this.foot);
  }

  show(told) {
    this.element.dataset.status = told.status;
    const fork = button("Fork", "ai-fork", () => this.say({ kind: "fork", id: this.id }));
    fork.title = "Go on from here in a copy of the conversation";
    if (told.role === "user") {
      this.body.textContent = told.text;
      this.attached = told.attached;
      this.foot.replaceChildren(...attachedTo(told), button("Edit", "ai-edit", () => this.say({ kind: "editing", message: this })), fork);
      return;
    }
    while (this.body.children.length > told.keep) this.body.lastElementChild.remove();
    for (const html of told.blocks) this.body.append(block(html));
    const open = told.status === "pending" || told.status === "streaming";
    clearInterval(this.clock);
    this.element.setAttribute("aria-busy", String(open));
    const foot = told.foot ? [told.foot] : [];
    if (told.wait) foot.push(this.countdown(told.wait));
    if (told.note?.error) foot.push(make("p", { className: "ai-failed", role: "alert", textContent: told.note.text }));
    else if (told.note) foot.push(make("p", { className: "ai-note", textContent: told.note.text }));
    if (!open && this.body.children.length) foot.push(copyButton(() => this.source(this.id)));
    if (!open) foot.push(button("Retry", "ai-retry", () => this.say({ kind: "retry", id: this.id })), fork);
    this.foot.replaceChildren(...foot);
  }

  countdown({ why, seconds }) {
    const note = make("p", { className: "ai-note" });
    const ends = performance.now() + 1000 * seconds;
    const show = () => {
      const left = Math.max(0, Math.ceil((ends - performance.now()) / 1000));
      note.textContent = `Waiting ${left} s: ${why}`;
    };
    show();
    this.clock = setInterval(show, 500);
    return note;
  }

  remove() {
    clearInterval(this.clock);
    this.element.remove();
  }
}

function render({ model, el }) {
  const messages = new Map();
  const state = model.get("state");
  const log = make("div", { className: "ai-log", role: "log", "aria-live": "polite", "aria-label": "Messages", tabIndex: 0 });
  const status = make("div", { className: "ai-status", role: "status" });
  const total = make("p", { className: "ai-total", title: "All calls of this conversation" });
  const failed = make("span", { role: "alert" });
  const again = button("Try again", "ai-again", () => say(last));
  const banner = make("div", { className: "ai-banner", hidden: true }, failed, again, button("Dismiss", "ai-dismiss", () => (banner.hidden = true)));
  const suggestions = make(
    "div", { className: "ai-suggestions", role: "group", "aria-label": "Suggestions", hidden: !state.suggestions?.length },
    ...(state.suggestions ?? []).map((text) => button(text, "ai-suggestion", () => { input.value = text; submit(); })),
  );
  const settings = new Settings(say);
  const input = make("textarea", { rows: 1, placeholder: "Ask something", "aria-label": "Message" });
  const send = make("button", { type: "submit", className: "ai-send", textContent: "Send" });
  const stop = make("button", { type: "button", className: "ai-stop", textContent: "Stop", title: "Stop the answer (Esc)", hidden: true });
  const form = make("form", { className: "ai-compose" }, input, stop, send);
  const heading = make("h2", { textContent: state.title });
  const more = button("Conversations", "ai-more", () => toggle(menu.hidden));
  const tune = button("Settings", "ai-tune", () => adjust(settings.element.hidden));
  for (const each of [more, tune]) each.setAttribute("aria-expanded", "false");
  const search = make("input", { type: "search", placeholder: "Search titles and messages", "aria-label": "Search conversations" });
  const found = make("ul", { className: "ai-found" });
  const rename = make("input", { "aria-label": "Title", maxLength: 200 });
  const remove = button("Delete", "ai-delete", () => {
    if (remove.textContent === "Delete") return (remove.textContent = "Really delete?");
    remove.textContent = "Delete";
    say({ kind: "delete" });
  });
  const menu = make(
    "div", { className: "ai-menu ai-conversations", hidden: true },
    make("div", { className: "ai-row" }, rename, button("Rename", "ai-rename", () => say({ kind: "rename", title: rename.value })), remove),
    make("div", { className: "ai-row" }, search, button("New", "ai-new", () => { toggle(false); say({ kind: "new" }); })),
    found,
  );
  const root = make(
    "section",
    { className: "ai-widget ai-chat", "aria-label": `Chat: ${state.title}`, "data-lm-suppress-shortcuts": "true", "data-jp-suppress-context-menu": "" },
    make("header", { className: "ai-head" }, heading, tune, more),
    settings.element, menu, log, suggestions, make("div", { className: "ai-row" }, status, total), banner, form,
    make("p", { className: "ai-deaf", hidden: state.busy, textContent: "While a cell runs, nothing is heard here. Jupyter hears it, with ipykernel 7." }),
  );
  const line = new Line(model, state.busy, () => fail(NO_ANSWER), () => (banner.hidden = true));
  const tell = (said, buffers) => line.say(said, buffers);
  const context = new Context({ tell, root, input, title: state.title, fail, changed: grow, sent: () => edit(null) });
  form.prepend(...context.buttons);
  form.before(...context.above);
  let editing = null; // the message that what is sent stands in place of

  let at = 0;
  let last = null; // what was said last, for another try; what was sent stands in the field still
  function say(said) {
    banner.hidden = true;
    if (said.kind === "editing") return edit(said.message);
    const isTwice = ONCE.has(said.kind) && said.kind === last?.kind && said.id === last.id;
    if (isTwice && performance.now() - at < 1000) return; // a double click
    [last, at] = [said, performance.now()];
    tell(said);
  }

  function edit(message) {
    editing = message;
    context.edit(message?.id, message?.body.textContent, message?.attached);
    send.textContent = message ? "Send changed" : "Send";
    grow();
    if (message || root.contains(document.activeElement)) input.focus();
  }

  const sources = new Map(); // who waits for the text of which message
  function source(id) {
    return new Promise((resolve) => {
      sources.set(id, resolve);
      tell({ kind: "source", id });
    });
  }

  function toggle(open) {
    menu.hidden = !open;
    more.setAttribute("aria-expanded", String(open));
    remove.textContent = "Delete";
    rename.value = heading.textContent;
    if (open) say({ kind: "list", search: search.value });
  }

  function adjust(open) {
    settings.element.hidden = !open;
    tune.setAttribute("aria-expanded", String(open));
    if (open) settings.open();
  }

  function list(conversations) {
    found.replaceChildren(
      ...conversations.map((one) => {
        const label = `${one.title} (${one.messages})`;
        return make("li", {}, button(label, "ai-open", () => { toggle(false); say({ kind: "open", id: one.id }); }));
      }),
    );
  }

  const open = (role, ...states) =>
    [...messages.values()].find((one) => (one.role === "tool") === (role === "tool") && states.includes(one.element.dataset.status));

  function progress() {
    const asking = open("tool", "waiting");
    if (asking) return `The tool ${asking.name.textContent} asks to be run.`;
    const running = open("tool", "pending", "streaming");
    if (running) return `The tool ${running.name.textContent} runs.`;
    return open("assistant", "pending", "streaming") ? "The answer is being written." : "";
  }

  function told(updates) {
    for (const update of updates) {
      context.follow(update);
      if (update.kind === "message") {
        let message = messages.get(update.id);
        if (!message) {
          message = update.role === "tool" ? new ToolCall(update.id, say) : new Message(update.id, update.role, say, source);
          messages.set(update.id, message);
          log.append(message.element);
        }
        message.show(update);
      } else if (update.kind === "title") {
        if (update.title === null) fail("This conversation was deleted. Begin a new one: Conversations, New.");
        heading.textContent = update.title ?? heading.textContent;
        root.setAttribute("aria-label", `Chat: ${heading.textContent}`);
      } else if (update.kind === "settings") {
        settings.show(update);
        if (!settings.element.hidden) adjust(false);
      } else if (update.kind === "total") {
        total.textContent = update.text;
      } else if (update.kind === "cleared") {
        for (const message of messages.values()) message.remove();
        messages.clear();
        if (editing) edit(null);
      } else if (update.kind === "order") {
        for (const [id, message] of messages) {
          if (!update.ids.includes(id)) {
            message.remove();
            messages.delete(id);
          }
        }
        let next = null; // from the end, as older ones may still be on their way
        for (const id of update.ids.toReversed()) {
          const element = messages.get(id)?.element;
          if (!element) continue;
          if (element.nextSibling !== next) log.insertBefore(element, next);
          next = element;
        }
      }
    }
    const all = [...messages.values()];
    const lastOwn = all.findLast((one) => one.role === "user");
    for (const one of all) {
      for (const each of one.foot.querySelectorAll(".ai-edit")) each.hidden = one !== lastOwn;
      for (const each of one.foot.querySelectorAll(".ai-retry")) each.hidden = one !== all.at(-1);
    }
    suggestions.hidden = !suggestions.children.length || all.length > 0;
    const now = progress();
    stop.hidden = !now;
    if (status.textContent !== now) status.textContent = now;
    follow();
  }

  // Who reads the end goes on reading the end, whatever grows in the log or around it.
  let atEnd = true;
  const follow = () => { if (atEnd) log.scrollTop = log.scrollHeight; };
  log.addEventListener("scroll", () => (atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40));
  const room = new ResizeObserver(follow);
  room.observe(log);

  // What has come is drawn before the next frame, unless it is so much that the page would stand still.
  const waiting = [];
  function draw() {
    const ends = performance.now() + 30;
    do told(waiting.shift());
    while (waiting.length && performance.now() < ends);
    if (waiting.length) requestAnimationFrame(draw);
  }

  function hear(message) {
    line.heard();
    if (context.hear(message)) return;
    if (message.kind === "error") {
      fail(message.text, message.again);
    } else if (message.kind === "source") {
      sources.get(message.id)?.(message.text);
    } else if (message.kind === "models") {
      settings.offer(message);
    } else if (message.kind === "conversations") {
      list(message.found);
    } else if (message.kind === "told") {
      if (!waiting.length) requestAnimationFrame(draw);
      waiting.push(message.updates);
    }
  }

  function fail(text, retryable = false) {
    failed.textContent = text;
    again.hidden = !retryable || last === null;
    banner.hidden = false;
  }

  function submit() {
    banner.hidden = true;
    last = null;
    context.send(editing ? { kind: "edit", id: editing.id } : { kind: "send" });
  }

  function grow() {
    input.style.height = "auto";
    if (input.value.length > 10000) return void (input.style.height = "240px"); // to measure it would take a second
    input.style.height = `${Math.min(input.scrollHeight, 240)}px`;
  }

  form.addEventListener("submit", (event) => { event.preventDefault(); submit(); });
  stop.addEventListener("click", () => say({ kind: "stop" }));
  search.addEventListener("input", () => say({ kind: "list", search: search.value }));
  input.addEventListener("input", grow);
  input.addEventListener("keydown", (event) => {
    if (!settings.sends(event)) return;
    event.preventDefault();
    submit();
  });
  root.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !event.isComposing && event.keyCode !== 229) {
      if (!menu.hidden) { toggle(false); more.focus(); }
      else if (!settings.element.hidden) { adjust(false); tune.focus(); }
      else if (editing) edit(null);
      else if (!stop.hidden) say({ kind: "stop" });
    }
    event.stopPropagation(); // Shift+Enter would run the cell
  });

  const greet = () => say({ kind: "hello" });
  model.on("msg:custom", hear);
  model.on("comm_live_update", greet); // Jupyter's widgets: the kernel begins anew, or is back
  el.append(root);
  greet();
  const showTranscript = hideTranscript(el);
  return () => {
    showTranscript();
    room.disconnect();
    context.keep();
    line.close();
    for (const message of messages.values()) message.remove();
    model.off("msg:custom", hear);
    model.off("comm_live_update", greet);
  };
}

export default { render };
