// What the widgets' pages share; it stands before each of them (views.py). Text goes in as text. HTML comes from the
// kernel's render/, which made it safe, and where the browser can, it makes it safe once more.

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
    button.textContent = (await copied(await textOf())) ? "Copied" : "Not allowed here";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
  return button;
}

// Whether `text` is in the clipboard now. Pages that came over plain http may not write to it; most may copy a field.
async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const field = make("textarea", { value: text });
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    return done;
  }
}

function button(label, className, press) {
  const made = make("button", { type: "button", className, textContent: label });
  made.addEventListener("click", press);
  return made;
}

// To the kernel, which answers at once that it heard. `waits`: whether it hears while a cell runs; else silence tells
// nothing. `lost` is called where no answer comes, `found` when one comes after that.
class Line {
  static PATIENCE = 5000; // milliseconds

  constructor(model, waits, lost, found) {
    Object.assign(this, { model, waits, lost, found, isLost: false });
  }

  say(said, buffers) {
    clearTimeout(this.timer);
    if (this.waits) this.timer = setTimeout(() => this.silence(), Line.PATIENCE);
    try {
      this.model.send(said, undefined, buffers);
    } catch {
      this.silence(); // the kernel is gone
    }
  }

  silence() {
    this.isLost = true;
    this.lost();
  }

  heard() {
    clearTimeout(this.timer);
    const wasLost = this.isLost;
    this.isLost = false;
    if (wasLost) this.found();
  }

  close() {
    clearTimeout(this.timer);
  }
}

// What render/ made of markdown, or of a table.
function block(html) {
  const made = make("div", { className: "ai-block" });
  setHtml(made, html);
  for (const link of made.querySelectorAll("a")) link.target = "_blank";
  for (const code of made.querySelectorAll("pre")) {
    code.tabIndex = 0; // what scrolls can be reached with the keyboard
    const frame = make("div", { className: "ai-code" });
    code.replaceWith(frame);
    frame.append(copyButton(() => code.innerText), code);
  }
  return made;
}

// The next output of the cell is for when this widget is gone. Gives what shows it again.
function hideTranscript(el) {
  let output = null;
  const hide = () => {
    output = el.closest(".jp-OutputArea-child")?.nextElementSibling ?? output;
    if (output) output.style.display = "none";
  };
  hide();
  const outputs = new MutationObserver(hide);
  requestAnimationFrame(() => {
    const area = el.closest(".jp-OutputArea");
    if (area) outputs.observe(area, { childList: true });
    hide();
  });
  return () => {
    outputs.disconnect();
    if (output) output.style.display = "";
  };
}
