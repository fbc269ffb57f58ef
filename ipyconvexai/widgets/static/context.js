// What goes along with a message: files, variables by @name, what will be sent, and the draft; before chat.js. The
// kernel's side is composing.py. What is typed stays in the field until the kernel has taken it, and in the browser's
// own store (never in the notebook) until then, so that it outlives a reload and a kernel that is away.

const LARGEST = 8_000_000; // bytes; Jupyter takes 10 MB at once
const KEPT = 30 * 24 * 3600 * 1000; // ms that a draft is kept
const DRAFT = "ipyconvexai:draft:";
const MENTION = /(?:^|[^\p{L}\p{N}_@.+`/\\-])@((?:cell:)?[\p{L}\p{N}_.]*)$/u;

const newToken = () => Math.random().toString(36).slice(2) + Date.now().toString(36);
const about = (one) => `${one.kind}, about ${one.tokens.toLocaleString("en")} tokens`;

// Whether the text has it attached anew: @df is not in "@df2" and not in "@df.length".
function isMentioned(name, text) {
  const word = name.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  return new RegExp(`@${word}(?![\\p{L}\\p{N}_]|\\.[\\p{L}\\p{N}_])`, "u").test(text);
}

// The names of what went along with a message that was sent.
function attachedTo(message) {
  const chips = (message.attached ?? []).map((one) => make("li", { className: "ai-chip", title: about(one), textContent: one.name }));
  return chips.length ? [make("ul", { className: "ai-chips", "aria-label": "Attached" }, ...chips)] : [];
}

class Drafts {
  constructor() {
    try {
      this.store = window.localStorage;
      for (const key of Object.keys(this.store)) {
        if (key.startsWith(DRAFT) && !(JSON.parse(this.store[key]).at > Date.now() - KEPT)) this.store.removeItem(key);
      }
    } catch {
      this.store = null; // a front end without one
    }
  }

  load(title) {
    try {
      return JSON.parse(this.store?.getItem(DRAFT + title) ?? "{}").text ?? "";
    } catch {
      return "";
    }
  }

  save(title, text) {
    try {
      if (text) this.store?.setItem(DRAFT + title, JSON.stringify({ text, at: Date.now() }));
      else this.store?.removeItem(DRAFT + title);
    } catch {
      // There is no room: it is in the field all the same.
    }
  }
}

class Names {
  // What can stand after an @, below the words that are typed.
  constructor(input, ask, taken) {
    this.input = input;
    this.ask = ask;
    this.taken = taken;
    this.list = make("ul", { className: "ai-names", role: "listbox", id: `ai-names-${newToken()}`, "aria-label": "Variables and cells", hidden: true });
    this.status = make("span", { className: "ai-unseen", role: "status" });
    input.setAttribute("aria-autocomplete", "list");
    input.setAttribute("aria-controls", this.list.id);
    input.addEventListener("input", () => this.look());
    input.addEventListener("click", () => this.look());
    input.addEventListener("blur", () => this.close());
    input.addEventListener("keydown", (event) => this.press(event), true);
  }

  get beginning() {
    const { selectionStart: at, selectionEnd, value } = this.input;
    return at === selectionEnd ? value.slice(Math.max(0, at - 100), at).match(MENTION)?.[1] : undefined;
  }

  look() {
    if (this.beginning === undefined) return this.close();
    this.token = newToken();
    this.ask({ kind: "names", token: this.token, beginning: this.beginning });
  }

  show({ token, names }) {
    if (token !== this.token || this.beginning === undefined || document.activeElement !== this.input) return;
    this.list.replaceChildren(...names.map((one, at) => this.option(one, at)));
    this.list.hidden = !names.length;
    this.status.textContent = names.length ? `${names.length} names; Tab takes one` : "";
    this.choose(0);
  }

  option(one, at) {
    const option = make("li", { role: "option", id: `${this.list.id}-${at}` }, make("b", { textContent: one.name }), make("span", { textContent: one.about }));
    option.dataset.name = one.name;
    option.addEventListener("mousedown", (event) => { event.preventDefault(); this.take(option); });
    return option;
  }

  choose(at) {
    const options = [...this.list.children];
    this.chosen = options[(at + options.length) % options.length];
    for (const one of options) one.setAttribute("aria-selected", String(one === this.chosen));
    if (this.chosen) this.input.setAttribute("aria-activedescendant", this.chosen.id);
    this.chosen?.scrollIntoView({ block: "nearest" });
  }

  close() {
    this.token = null;
    this.list.hidden = true;
    this.status.textContent = "";
    this.input.removeAttribute("aria-activedescendant");
  }

  take(option) {
    const { selectionStart: at, value } = this.input;
    const from = at - this.beginning.length;
    this.input.setRangeText(`${option.dataset.name} `, from, at + /^[\p{L}\p{N}_.:]*/u.exec(value.slice(at))[0].length, "end");
    this.close();
    this.taken();
  }

  press(event) {
    if (this.list.hidden || event.isComposing) return;
    const at = [...this.list.children].indexOf(this.chosen);
    const whole = this.chosen?.dataset.name === this.beginning; // Enter is for the message then
    if (event.key === "ArrowDown") this.choose(at + 1);
    else if (event.key === "ArrowUp") this.choose(at - 1);
    else if (event.key === "Escape") this.close();
    else if ((event.key === "Tab" && !event.shiftKey) || (event.key === "Enter" && !event.shiftKey && !whole)) this.take(this.chosen);
    else return void (event.key === "Enter" && this.close());
    event.preventDefault();
    event.stopImmediatePropagation();
  }
}

class Context {
  // `tell` says something to the kernel, `fail` shows an error, `changed` is called when the field was changed from here, `sent` when the kernel has taken
  // the message: the field can be emptied.
  constructor({ tell, root, input, title, fail, changed, sent }) {
    Object.assign(this, { tell, root, input, title, fail, changed, sent });
    this.drafts = new Drafts();
    this.files = []; // as the kernel has them
    this.coming = new Map(); // names of those that it reads
    this.own = []; // what the message that is edited has of its own
    this.names = new Names(input, (said) => this.tell(said), () => this.typed());
    this.chips = make("ul", { className: "ai-chips", "aria-label": "To be sent along" });
    this.count = make("span", { className: "ai-count" });
    this.look = button("What will be sent", "ai-look", () => this.preview());
    this.bar = make("div", { className: "ai-along", hidden: true }, this.chips, this.count, this.look);
    this.shown = make("section", { className: "ai-preview", "aria-label": "What will be sent", hidden: true });
    const picker = make("input", { type: "file", multiple: true, hidden: true, tabIndex: -1 });
    picker.addEventListener("change", () => { this.attach(picker.files); picker.value = ""; });
    this.attachButton = button("Attach", "ai-attach", () => picker.click());
    this.attachButton.title = "Attach files: text, CSV, notebooks, PDF, pictures. @name attaches a variable, @cell:3 a cell.";
    this.buttons = [this.attachButton, picker];
    const over = make("div", { className: "ai-names-over" }, this.names.list);
    this.above = [this.names.status, this.shown, over, this.bar];
    this.listen();
    this.restore();
  }

  listen() {
    this.input.addEventListener("input", () => this.typed());
    this.input.addEventListener("paste", (event) => {
      const { files, types } = event.clipboardData;
      if (!files.length || types.includes("text/plain")) return; // a table's picture comes beside its text
      event.preventDefault();
      this.attach(files);
    });
    const isFiles = (event) => event.dataTransfer?.types.includes("Files");
    this.root.addEventListener("dragover", (event) => {
      if (!isFiles(event)) return;
      event.preventDefault();
      event.stopPropagation();
      this.root.classList.add("ai-over");
    });
    this.root.addEventListener("dragleave", (event) => {
      if (!this.root.contains(event.relatedTarget)) this.root.classList.remove("ai-over");
    });
    this.root.addEventListener("drop", (event) => {
      this.root.classList.remove("ai-over");
      if (!isFiles(event)) return;
      event.preventDefault();
      event.stopPropagation();
      this.attach(event.dataTransfer.files);
    });
    this.shown.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      this.closePreview();
    });
  }

  // ------------------------------------------------------------------------------------------------ what is heard
  hear(message) {
    if (message.kind === "files") {
      this.files = message.files;
      for (const { id } of message.files) this.coming.delete(id);
      this.draw();
    } else if (message.kind === "names") this.names.show(message);
    else if (message.kind === "preview") this.show(message);
    else if (message.kind === "taken") this.taken(message.token);
    else if (message.kind === "refused") this.refused(message.token);
    else return false;
    return true;
  }

  taken(token) {
    if (this.sending?.token !== token) return;
    const { text } = this.sending;
    const more = this.input.value.startsWith(text) ? this.input.value.slice(text.length) : this.input.value;
    this.stopWaiting();
    if (!this.edited) this.input.value = more.trim() ? more : "";
    this.keep();
    this.closePreview();
    this.sent();
  }

  refused(token) {
    this.coming.delete(token);
    if (this.sending?.token === token) this.stopWaiting();
    this.draw();
  }

  // ------------------------------------------------------------------------------------------------ sending
  // What was not taken may be sent once more: of one token the kernel takes one.
  send(said) {
    const text = this.input.value;
    if (!text.trim() && !this.files.length) return;
    if (this.coming.size) return this.fail("A file is still being read; send again when it is there.");
    const key = JSON.stringify([said, text, this.files.map((one) => one.id), this.own]);
    if (this.sending?.key !== key) this.sending = { key, text, token: newToken() };
    this.root.setAttribute("aria-busy", "true");
    this.tell({ ...said, ...this.whole(), token: this.sending.token });
  }

  whole() {
    return { text: this.input.value, files: this.files.map((one) => one.id), keep: this.own.map((one) => one.at) };
  }

  stopWaiting() {
    this.sending = null;
    this.root.removeAttribute("aria-busy");
  }

  // ------------------------------------------------------------------------------------------------ files
  async attach(files) {
    for (const file of [...files]) {
      if (file.size > LARGEST) {
        this.fail(`${file.name} is too large (${(file.size / 1e6).toFixed(1)} MB of ${LARGEST / 1e6}), and is not attached\n  Read it in a cell and attach the variable: @name.`);
        continue;
      }
      const token = newToken();
      this.coming.set(token, file.name);
      this.draw();
      try {
        const data = await file.arrayBuffer();
        this.tell({ kind: "file", token, name: file.name, bytes: true }, [data]);
      } catch {
        this.coming.delete(token);
        this.draw();
        this.fail(`${file.name} cannot be read here\n  A folder cannot be attached: choose its files.`);
      }
    }
    this.input.focus();
  }

  draw() {
    const own = this.own.map((one) => this.chip(one, () => { this.own = this.own.filter((each) => each !== one); this.draw(); }));
    const here = this.files.map((one) => this.chip(one, () => this.tell({ kind: "unfile", token: one.id })));
    const coming = [...this.coming.values()].map((name) => make("li", { className: "ai-chip", textContent: `${name} …`, title: "It is being read" }));
    this.chips.replaceChildren(...own, ...here, ...coming);
    const text = this.input.value;
    const tokens = [...this.own, ...this.files].reduce((sum, one) => sum + one.tokens, Math.ceil(text.length / 4));
    this.count.textContent = `about ${tokens.toLocaleString("en")} tokens`;
    this.bar.hidden = !this.chips.children.length && text.length < 2000 && !text.includes("@");
  }

  chip(one, remove) {
    const cross = button("×", "ai-remove", remove);
    cross.setAttribute("aria-label", `Remove ${one.name}`);
    return make("li", { className: "ai-chip", title: about(one) }, make("span", { textContent: one.name }), make("small", { textContent: about(one) }), cross);
  }

  // ------------------------------------------------------------------------------------------------ what will be sent
  preview() {
    if (!this.shown.hidden) return this.closePreview();
    this.looking = newToken();
    this.tell({ kind: "preview", ...this.whole(), ...(this.edited ? { id: this.edited } : {}), token: this.looking });
  }

  show({ token, parts, total }) {
    if (token !== this.looking) return;
    const head = make("p", { tabIndex: -1, textContent: `About ${total.toLocaleString("en")} tokens go to the model:` });
    const details = parts.map((one) => {
      const text = make("pre", { tabIndex: 0, textContent: one.text });
      return make("details", {}, make("summary", { textContent: `${one.name} (${about(one)})` }), text);
    });
    this.shown.replaceChildren(head, ...details, button("Close", "ai-close", () => this.closePreview()));
    this.shown.hidden = false;
    head.focus();
  }

  closePreview() {
    if (this.shown.hidden) return;
    this.shown.hidden = true;
    this.looking = null;
    this.input.focus();
  }

  // ------------------------------------------------------------------------------------------------ the draft
  typed() {
    this.draw();
    this.changed();
    clearTimeout(this.saving);
    this.saving = setTimeout(() => this.keep(), 300);
  }

  keep() {
    clearTimeout(this.saving);
    if (!this.edited) this.drafts.save(this.title, this.input.value);
  }

  restore() {
    if (this.edited) return;
    this.input.value = this.drafts.load(this.title);
    this.draw();
    this.changed();
  }

  // A message's own files are there while it is edited; null: it is over, and the draft of before comes back.
  edit(id, text, attached) {
    if (!this.edited) this.keep();
    this.edited = id;
    this.own = id ? (attached ?? []).map((one, at) => ({ ...one, at })).filter((one) => !isMentioned(one.name, text)) : [];
    if (id) this.input.value = text;
    else this.restore();
    this.draw();
  }

  // Another conversation, or another title of this one.
  follow({ kind, title }) {
    if (kind === "cleared") {
      this.keep();
      this.moving = true;
    } else if (kind === "title" && title !== null && title !== this.title) {
      const text = this.moving || this.edited ? "" : this.input.value;
      if (text) {
        this.drafts.save(this.title, "");
        this.drafts.save(title, text);
      }
      this.title = title;
      this.restore();
    }
    if (kind === "title") this.moving = false;
  }
}
