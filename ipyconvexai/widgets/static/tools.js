// A call of a tool, as a card: what is called, with which arguments, whether it asks first, what it gave. Everything of
// it is the model's words or the tool's, and goes in as text. Between common.js and chat.js.

class ToolCall {
  constructor(id, say) {
    this.id = id;
    this.role = "tool";
    this.say = say;
    this.name = make("strong");
    this.state = make("span", { className: "ai-state" });
    this.arguments = make("pre", { tabIndex: 0, role: "group", "aria-label": "Arguments" });
    this.foot = make("div", { className: "ai-foot" });
    this.result = make("pre", { tabIndex: 0, role: "group", "aria-label": "Result" });
    this.given = make("details", { hidden: true }, make("summary", { textContent: "Result" }), this.result);
    const head = make("div", { className: "ai-call-head" }, "Tool ", this.name, " ", this.state);
    this.element = make("article", { className: "ai-message ai-call", tabIndex: -1 }, head, this.arguments, this.foot, this.given);
  }

  remove() {
    this.element.remove();
  }

  show(told) {
    const answered = this.element.contains(document.activeElement) && this.element.dataset.status === "waiting" && told.status !== "waiting";
    this.element.dataset.status = told.status;
    this.element.setAttribute("aria-label", `Call of the tool ${told.name}`);
    this.element.setAttribute("aria-busy", String(["pending", "streaming"].includes(told.status)));
    this.name.textContent = told.name;
    this.state.textContent = told.state;
    this.arguments.textContent = told.arguments;
    this.arguments.hidden = !told.arguments || told.arguments === "{}";
    this.result.textContent = told.result;
    this.given.hidden = !told.result;
    this.foot.replaceChildren(...this.choices(told));
    if (told.note) this.foot.prepend(make("p", { className: told.note.error ? "ai-failed" : "ai-note", textContent: told.note.text }));
    if (answered) this.element.focus(); // its buttons are gone
  }

  choices({ status, here, more }) {
    const choice = (label, className, said) => button(label, className, () => this.say({ id: this.id, ...said }));
    if (status === "waiting") {
      const deny = choice(here ? "Do not allow" : "Skip", "ai-deny", { kind: "deny" });
      if (!here) return [deny];
      return [
        choice("Allow", "ai-allow", { kind: "allow", always: false }),
        choice("Always allow in this conversation", "ai-always", { kind: "allow", always: true }),
        deny,
      ];
    }
    return more ? [choice("Go on", "ai-go-on", { kind: "go on" })] : [];
  }
}
