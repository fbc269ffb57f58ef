// The panel's settings: the conversation's model and instructions, which the kernel keeps, and what Enter does, which
// the browser keeps.

const ENTER = "ipyconvexai.enter-sends";

class Settings {
  constructor(say) {
    this.say = say;
    this.model = make("input", { "aria-label": "Model", placeholder: "the default model", autocomplete: "off" });
    this.names = make("datalist", { id: `ai-models-${crypto.getRandomValues(new Uint32Array(1))[0]}` });
    this.model.setAttribute("list", this.names.id);
    this.system = make("textarea", { rows: 3, "aria-label": "Instructions", placeholder: "Instructions that stand before the messages" });
    this.enter = make("input", { type: "checkbox" });
    this.enter.checked = this.enterSends;
    this.enter.addEventListener("change", () => localStorage.setItem(ENTER, this.enter.checked));
    this.element = make(
      "form", { className: "ai-menu ai-settings", hidden: true },
      make("label", { className: "ai-row" }, make("span", { textContent: "Model" }), this.model, this.names),
      make("label", { className: "ai-row" }, make("span", { textContent: "Instructions" }), this.system),
      make("label", { className: "ai-row ai-check" }, this.enter, "Enter sends, Shift+Enter makes a new line (off: the other way round)"),
      make("div", { className: "ai-row" }, make("button", { type: "submit", className: "ai-save", textContent: "Use from the next answer on" })),
    );
    this.element.addEventListener("submit", (event) => {
      event.preventDefault();
      this.say({ kind: "configure", model: this.model.value, system: this.system.value });
    });
  }

  get enterSends() {
    return localStorage.getItem(ENTER) !== "false";
  }

  /** Whether this key is to send what is written; not while an input method composes a character. */
  sends(event) {
    if (event.key !== "Enter" || event.isComposing || event.keyCode === 229) return false;
    return event.ctrlKey || event.metaKey || event.shiftKey !== this.enterSends;
  }

  open() {
    this.show(this.told ?? { model: "", system: "" });
    this.say({ kind: "models" });
  }

  show(told) {
    this.told = told;
    this.model.value = told.model;
    this.system.value = told.system;
  }

  offer({ names, default: usual }) {
    this.model.placeholder = usual ? `the default: ${usual}` : "the default model";
    this.names.replaceChildren(...names.map((value) => make("option", { value })));
  }
}
